// A peer for the fan-out benchmark: a room of Socket.IO over two processes with the Redis adapter, as its documentation
// shows it. Everybody who has joined the room gets every message, whatever process he is connected to.
//
// It stores nothing, resumes nothing and knows no members beyond its own connections. Everything that it saves by that is
// in its favour. Only the WebSocket transport is on, and compression is off, as with the other side of the comparison.
//
//   node server.js --port 9001 --redis redis://127.0.0.1:6379

import { createServer } from 'node:http';
import { parseArgs } from 'node:util';

import { createAdapter } from '@socket.io/redis-adapter';
import { createClient } from 'redis';
import { Server } from 'socket.io';

const { values: options } = parseArgs({
  options: { port: { type: 'string' }, redis: { type: 'string', default: 'redis://127.0.0.1:6379' } },
});
if (!options.port) {
  console.error('usage: node server.js --port P [--redis redis://127.0.0.1:6379]');
  process.exit(2);
}

const publisher = createClient({ url: options.redis });
const subscriber = publisher.duplicate();
for (const redis of [publisher, subscriber]) redis.on('error', (error) => console.error('redis:', error.message));
await Promise.all([publisher.connect(), subscriber.connect()]);

const server = createServer();
const io = new Server(server, {
  adapter: createAdapter(publisher, subscriber),
  transports: ['websocket'],
  perMessageDeflate: false,
  serveClient: false,
});

io.on('connection', (socket) => {
  socket.on('join', async (room, done) => {
    await socket.join(room);
    done();
  });
  // The same fields as a message of the other side. The sender is told when the adapter has taken it.
  socket.on('send', (room, id, body, done) => {
    io.to(room).emit('message', { to: `group:${room}`, from: `user:${socket.id}`, id, at: Date.now(), body });
    done();
  });
});

process.on('SIGTERM', () => process.exit(0));

// A queue as long as the load generator's bursts of new connections.
server.listen({ port: Number(options.port), host: '127.0.0.1', backlog: 4096 }, () => {
  console.log(`listening ${server.address().port}`);
});
