// The page of example A, in Chromium, as its reader opens it: two users on two nodes.
//
// scripts/browser installs what this needs and runs it.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { appendFileSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';

import { chromium } from 'playwright-core';

const ROOT = new URL('../..', import.meta.url).pathname;
const BINARY = process.env.SWITCHBOARD_BIN ?? join(ROOT, 'target/debug/switchboard');
const PATIENCE_MS = 15_000;

const directory = mkdtempSync(join(tmpdir(), 'switchboard-browser-'));
const children = [];
let browser;
let nodes;
let page_url;

function start(name, program, ...argv) {
  const child = spawn(program, argv, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
  child.said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (child.said += data));
  child.on('error', (error) => (child.said += error));
  child.label = name;
  children.push(child);
  if (process.env.SWITCHBOARD_TEST_PIDS) appendFileSync(process.env.SWITCHBOARD_TEST_PIDS, `${child.pid}\n`);
  return child;
}

/** A port that nobody listens on. */
async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Asks until the answer is true. */
async function eventually(what, ask, within_ms = PATIENCE_MS) {
  const end = Date.now() + within_ms;
  for (;;) {
    const answer = await Promise.resolve(ask()).catch(() => false);
    if (answer) return answer;
    if (Date.now() > end) {
      const logs = children.map((child) => `--- ${child.label} ---\n${child.said.slice(-2_000)}`).join('\n');
      assert.fail(`not within ${within_ms} ms: ${what}\n${logs}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}

const answers = (url) => fetch(url).then(({ status }) => status === 200);

before(async () => {
  const [redis, pages, ...ports] = await Promise.all(Array.from({ length: 6 }, freePort));
  start('redis', 'redis-server', '--port', redis, '--bind', '127.0.0.1', '--dir', directory, '--save', '', '--appendonly', 'yes');
  page_url = `http://127.0.0.1:${pages}/`;
  // The very command of the example's README.
  start('pages', 'python3', '-m', 'http.server', pages, '--bind', '127.0.0.1', '--directory', 'examples/a-chat-page');
  nodes = ['a', 'b'].map((name, at) => {
    const [port, internal] = ports.slice(2 * at);
    const argv = ['serve', '--node-name', name, '--redis', `redis://127.0.0.1:${redis}`, '--origins', page_url.slice(0, -1)];
    argv.push('--listen', `127.0.0.1:${port}`, '--internal', `127.0.0.1:${internal}`, '--presence-delay', '1s');
    return { child: start(`node ${name}`, BINARY, ...argv), url: `ws://127.0.0.1:${port}`, ready: `http://127.0.0.1:${port}/readyz` };
  });
  await eventually('the page is served', () => answers(page_url));
  for (const node of nodes) await eventually('a node is ready', () => answers(node.ready));
  // As root Chromium has no sandbox; nothing but the page of this repository is opened.
  const args = process.getuid() === 0 ? ['--no-sandbox'] : [];
  browser = await chromium.launch({ executablePath: process.env.SWITCHBOARD_BROWSER ?? '/usr/bin/chromium', args });
});

after(async () => {
  await browser?.close();
  for (const child of children) child.kill('SIGKILL');
  await Promise.all(children.map((child) => child.exitCode ?? child.signalCode ?? new Promise((done) => child.on('exit', done))));
  rmSync(directory, { recursive: true, force: true });
});

/** Opens the page as a user, whose first node is the first of these. */
async function open(user, ...urls) {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.errors = [];
  page.on('pageerror', (error) => page.errors.push(error));
  await page.goto(`${page_url}?user=${user}&url=${urls.map(({ url }) => url).join(',')}`);
  await page.waitForFunction(() => document.querySelector('#status').textContent.startsWith('connected'));
  return page;
}

const sees = (page, user, online) =>
  page.waitForSelector(`#people li[data-user="${user}"][data-online="${online}"]`, { timeout: PATIENCE_MS });
const choose = (page, user) => page.click(`#people li[data-user="${user}"]`);
const lines = (page) => page.locator('#messages li').allTextContents();

async function says(page, text) {
  await page.fill('#text', text);
  await page.press('#text', 'Enter');
}

async function shows(page, wanted) {
  await eventually(`the page shows ${JSON.stringify(wanted)}`, async () => {
    return JSON.stringify(await lines(page)) === JSON.stringify(wanted);
  });
}

test('the list of people changes by itself', async () => {
  const alice = await open('ann', nodes[0], nodes[1]);
  const bob = await open('ben', nodes[1], nodes[0]);
  await sees(alice, 'ben', true);
  await sees(bob, 'ann', true);
  const carol = await open('cat', nodes[1], nodes[0]);
  for (const page of [alice, bob]) await sees(page, 'cat', true);
  await carol.context().close();
  for (const page of [alice, bob]) await sees(page, 'cat', false);
  await sees(alice, 'ben', true);
  for (const page of [alice, bob]) {
    assert.deepEqual(page.errors, []);
    await page.context().close();
  }
});

test('messages to one, to everybody, and all of them after a reload', async () => {
  const alice = await open('dora', nodes[0], nodes[1]);
  const bob = await open('emil', nodes[1], nodes[0]);
  await sees(alice, 'emil', true);
  await sees(bob, 'dora', true);
  await choose(alice, 'emil');
  await says(alice, 'hello emil');
  await choose(bob, 'dora');
  await shows(bob, ['dora: hello emil']);
  await says(bob, 'hello dora');
  for (const page of [alice, bob]) await shows(page, ['dora: hello emil', 'emil: hello dora']);

  for (const page of [alice, bob]) await choose(page, 'all');
  await says(alice, 'hello everybody');
  for (const page of [alice, bob]) await shows(page, ['dora: hello everybody']);

  await alice.reload();
  await shows(alice, ['dora: hello everybody']);
  await sees(alice, 'emil', true);
  await choose(alice, 'emil');
  await shows(alice, ['dora: hello emil', 'emil: hello dora']);
  for (const page of [alice, bob]) {
    assert.deepEqual(page.errors, []);
    await page.context().close();
  }
});

test('a node is killed while they write, and nothing is lost, doubled or out of order', async () => {
  const alice = await open('fay', nodes[0], nodes[1]);
  const bob = await open('gus', nodes[1], nodes[0]);
  await sees(alice, 'gus', true);
  await sees(bob, 'fay', true);
  await choose(alice, 'gus');
  await choose(bob, 'fay');
  const wanted = [];
  for (let number = 0; number < 40; number++) {
    await says(alice, `number ${number}`);
    wanted.push(`fay: number ${number}`);
    if (number === 15) nodes[1].child.kill('SIGKILL');
  }
  await shows(bob, wanted);
  await shows(alice, wanted);
  // He writes again, from the other node.
  await says(bob, 'still here');
  for (const page of [alice, bob]) await shows(page, [...wanted, 'gus: still here']);
  for (const page of [alice, bob]) assert.deepEqual(page.errors, []);
});
