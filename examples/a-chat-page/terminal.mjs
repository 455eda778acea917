// The same chat in a terminal: `text` goes to everybody, `@bob text` to bob, `/history bob` shows the past with him.
//
//   node --experimental-websocket terminal.mjs --user alice --url ws://127.0.0.1:8080,ws://127.0.0.1:8090
//
// From Node.js 22 on without the flag.

import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';

import { Chat } from './chat.js';

const { values } = parseArgs({
  options: { user: { type: 'string' }, url: { type: 'string', default: 'ws://127.0.0.1:8080' } },
});
if (!values.user || !globalThis.WebSocket) {
  console.error('usage: node --experimental-websocket terminal.mjs --user USER [--url ws://HOST:PORT,…]');
  process.exit(2);
}

let shown = '';
const name = (address) => address.replace('user:', '');
const line = ({ from, to, body }) => `${name(from)} -> ${to === 'all' ? 'everybody' : name(to)}: ${body}`;

function tell(what, value) {
  if (what === 'status') console.log(`* ${value}`);
  if (what === 'message' && value.live) console.log(line(value));
  if (what !== 'people') return;
  const online = [...chat.people].filter(([, { online }]) => online).map(([user]) => user);
  const list = `* online: ${online.sort().join(', ')}`;
  if (list !== shown) console.log((shown = list));
}

const chat = new Chat({ urls: values.url.split(','), user: values.user, WebSocket, tell });

const sent = [];
for await (const text of createInterface({ input: process.stdin })) {
  const [, command, who, rest] = text.match(/^(@|\/history )?(?:(\S+) ?)(.*)$/) ?? [];
  if (command === '@') sent.push(chat.send(who, rest));
  else if (command) {
    await chat.history(who);
    for (const message of chat.conversations.get(who) ?? []) console.log(`  ${line(message)}`);
  } else if (text) sent.push(chat.send('all', text));
}
await Promise.all(sent);
process.exit(0);
