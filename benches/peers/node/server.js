// A peer for benchmarks: chat over WebSockets with Node.js, `ws` and Redis, as a careful engineer builds it after
// reading the usual tutorial. It speaks the part of switchboard.v1 in JSON that the load generator uses, so that one
// and the same generator drives both.
//
// It stores no message and resumes nothing: who is away loses what is sent, and a message counts as sent when Redis has
// published it. Everything that it saves by that is in its favour.
//
//   node server.js --port 9001 --redis redis://127.0.0.1:6379 --name a

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';

import { Redis } from 'ioredis';
import { WebSocketServer } from 'ws';

const HEARTBEAT_MS = 25_000;
const MAX_BYTES = 65_536;
// How long a sender may believe that a user is still on the node where he was. A longer time saves lookups, a shorter
// one loses less after a reconnect; there is no right value without a second round trip a message.
const LOCATIONS_MS = 30_000;
const LOCATIONS_KEY = 'peer:loc';

const { values: options } = parseArgs({
  options: {
    port: { type: 'string' },
    redis: { type: 'string', default: 'redis://127.0.0.1:6379' },
    name: { type: 'string' },
  },
});
if (!options.port || !options.name) {
  console.error('usage: node server.js --port P --name NAME [--redis redis://127.0.0.1:6379]');
  process.exit(2);
}

const node = options.name;
const channelOf = (name) => `peer:node:${name}`;

// Commands of one turn of the event loop go out in one write. A connection that subscribes can do nothing else, so
// there are two.
const commands = new Redis(options.redis, { enableAutoPipelining: true });
const subscriber = new Redis(options.redis);
for (const redis of [commands, subscriber]) redis.on('error', (error) => console.error('redis:', error.message));

// Only the node that wrote a location removes it: the user may already be connected to another one.
commands.defineCommand('forgetLocation', {
  numberOfKeys: 1,
  lua: `if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
        return redis.call('HDEL', KEYS[1], ARGV[1])`,
});

/** @type {Map<string, Set<import('ws').WebSocket>>} connections of this node by user */
const local = new Map();
/** @type {Map<string, string>} which node a user was on when we last asked */
const locations = new Map();
setInterval(() => locations.clear(), LOCATIONS_MS).unref();

/** The node of a user, or null when he is nowhere. One lookup a user and half minute. */
async function locate(user) {
  const found = await commands.hget(LOCATIONS_KEY, user);
  if (found) locations.set(user, found);
  return found;
}

/** Gives a message to all connections that its recipient has here. Encoded once, however many they are. */
function deliver(message) {
  const connections = local.get(message.to.slice('user:'.length));
  if (!connections) return;
  const { to, from, id, at, body } = message;
  const frame = JSON.stringify({ type: 'message', to, from, id, at, body });
  for (const socket of connections) socket.send(frame);
}

async function onSend(socket, { id, to, body }) {
  if (typeof id !== 'string' || typeof to !== 'string' || !to.startsWith('user:') || body === undefined) {
    return fail(socket, id, 'bad_request', 'send needs `id`, `to` as user:ID, and `body`');
  }
  const at = Date.now();
  const user = to.slice('user:'.length);
  const message = { to, from: socket.address, id, at, body };
  try {
    // No `await` for a location that is known: one turn of the event loop less, and the order of sends is kept.
    const where = locations.get(user) ?? (await locate(user));
    if (where === node) deliver(message);
    else if (where) await commands.publish(channelOf(where), JSON.stringify(message));
    socket.send(JSON.stringify({ type: 'sent', id, at }));
  } catch (error) {
    fail(socket, id, 'unavailable', error.message);
  }
}

async function onHello(socket, hello) {
  try {
    await commands.hset(LOCATIONS_KEY, socket.user, node);
  } catch {
    return leave(socket, 4503, 'backplane_unavailable');
  }
  if (socket.readyState !== socket.OPEN) return;
  locations.set(socket.user, node);
  const connections = local.get(socket.user);
  if (connections) connections.add(socket);
  else local.set(socket.user, new Set([socket]));
  const inbox = { of: socket.address, status: 'new', cursor: '', head: 0, replay: 0 };
  socket.send(
    JSON.stringify({
      type: 'welcome',
      user: socket.user,
      device: hello.device ?? randomUUID(),
      connection: randomUUID(),
      node,
      heartbeat_ms: HEARTBEAT_MS,
      max_bytes: MAX_BYTES,
      streams: [inbox],
    }),
  );
  socket.isOpen = true;
}

function onFrame(socket, data, isBinary) {
  if (isBinary) return leave(socket, 1003, 'binary frame on JSON');
  let frame;
  try {
    frame = JSON.parse(data.toString());
  } catch {
    return leave(socket, 4000, 'bad_frame');
  }
  if (frame === null || typeof frame !== 'object') return leave(socket, 4000, 'bad_frame');
  if (!socket.isOpen) {
    // The next frame may be here before Redis has the location, but a second `hello` is none.
    if (frame.type !== 'hello' && !socket.saidHello) return leave(socket, 4000, 'bad_frame');
    if (!socket.saidHello) {
      socket.saidHello = true;
      socket.opening = onHello(socket, frame);
      return;
    }
    socket.opening.then(() => socket.isOpen && onFrame(socket, data, isBinary));
    return;
  }
  switch (frame.type) {
    case 'send':
      return onSend(socket, frame);
    case 'ping':
      return socket.send(JSON.stringify({ type: 'pong', id: frame.id }));
    case 'ack':
      return;
    default:
      return fail(socket, frame.id, 'bad_request', 'this peer knows send, ack and ping');
  }
}

function onClose(socket) {
  const connections = local.get(socket.user);
  if (!connections?.delete(socket) || connections.size > 0) return;
  local.delete(socket.user);
  if (locations.get(socket.user) === node) locations.delete(socket.user);
  commands.forgetLocation(LOCATIONS_KEY, socket.user, node).catch(() => {});
}

function fail(socket, id, code, message) {
  socket.send(JSON.stringify({ type: 'error', id, code, message, docs: `/docs/${code}` }));
}

function leave(socket, code, reason) {
  socket.send(JSON.stringify({ type: 'bye', code, reason, reconnect_ms: 1000 }));
  socket.close(code, reason);
}

const sockets = new WebSocketServer({
  noServer: true,
  perMessageDeflate: false,
  maxPayload: MAX_BYTES,
  handleProtocols: (offered) => (offered.has('switchboard.v1.json') ? 'switchboard.v1.json' : false),
});

const server = createServer((request, response) => {
  const known = request.url === '/healthz' || request.url === '/readyz';
  response.writeHead(known ? 200 : 404).end();
});
server.on('upgrade', (request, stream, head) => {
  const url = new URL(request.url, 'http://localhost');
  const user = url.searchParams.get('user');
  if (url.pathname !== '/v1/connect' || !user) {
    stream.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
    return;
  }
  sockets.handleUpgrade(request, stream, head, (socket) => {
    socket.user = user;
    socket.address = `user:${user}`;
    socket.isAlive = true;
    socket.on('message', (data, isBinary) => onFrame(socket, data, isBinary));
    socket.on('pong', () => (socket.isAlive = true));
    socket.on('close', () => onClose(socket));
    socket.on('error', () => socket.terminate());
  });
});

// One timer for all: who did not answer the last ping is gone.
setInterval(() => {
  for (const socket of sockets.clients) {
    if (!socket.isAlive) socket.terminate();
    socket.isAlive = false;
    socket.ping();
  }
}, HEARTBEAT_MS).unref();

process.on('SIGTERM', () => process.exit(0));

subscriber.on('message', (_channel, text) => deliver(JSON.parse(text)));
await subscriber.subscribe(channelOf(node));
// A queue as long as the load generator's bursts of new connections.
server.listen({ port: Number(options.port), host: '127.0.0.1', backlog: 4096 }, () => {
  console.log(`listening ${server.address().port}`);
});
