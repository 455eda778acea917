// The page over chat.js: a list of people, one open conversation, a box to write in.

import { Chat } from './chat.js';

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
let chat;
let open = 'all';

/** Entering puts the name into the address, so that a reload is the same user. */
$('enter').onsubmit = (event) => {
  event.preventDefault();
  query.set('user', $('user').value);
  history.replaceState(null, '', `?${query}`);
  start($('user').value);
};

function start(user) {
  const urls = (query.get('url') ?? 'ws://127.0.0.1:8080,ws://127.0.0.1:8090').split(',');
  $('enter').hidden = true;
  $('chat').hidden = false;
  chat = new Chat({ urls, user, WebSocket, tell });
  show();
}

function tell(what, value) {
  if (what === 'status') $('status').textContent = value;
  // After a reload there is nothing yet, and after a reconnect the streams have brought what was missed.
  else if (what === 'ready') chat.history(open);
  else show();
}

function choose(conversation) {
  open = conversation;
  chat.history(conversation);
  show();
}

function show() {
  const others = [...chat.people].filter(([user]) => user !== chat.user).sort(([a], [b]) => a.localeCompare(b));
  const entries = [['all', { online: true }], ...others].map(([user, { online }]) => {
    const entry = document.createElement('li');
    entry.textContent = user === 'all' ? 'everybody' : user;
    Object.assign(entry.dataset, { user, online, open: user === open });
    entry.onclick = () => choose(user);
    return entry;
  });
  $('people').replaceChildren(...entries);
  const lines = (chat.conversations.get(open) ?? []).map((message) => {
    const line = document.createElement('li');
    line.textContent = `${message.from.slice('user:'.length)}: ${message.body}`;
    line.title = new Date(message.at).toLocaleString();
    return line;
  });
  $('messages').replaceChildren(...lines);
}

$('write').onsubmit = (event) => {
  event.preventDefault();
  const text = $('text').value;
  $('text').value = '';
  if (text) chat.send(open, text);
};

if (query.get('user')) start(query.get('user'));
