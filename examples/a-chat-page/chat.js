// The chat itself, without a page: who is there, conversations, messages that are sent once and never lost.
// It runs wherever there is a WebSocket; page.js and terminal.mjs show it.
//
//   the tutorial's event        the frame here
//   join(userId)            ->  hello (the user is in the credentials), join {group: "lobby"}
//   onlineUsers             ->  ok {online}, the answer to watch {group: "lobby"}
//   userJoined, userLeft    ->  presence_change {user, online}, member_change {user, joined} for new people
//   sendMessage(to, text)   ->  send {to: "user:ID", body, echo}, and message
//   broadcast(text)         ->  send {to: "all", body}, and message
//   chatHistory             ->  history {of: "all"} or {of: the own inbox, with: "user:ID"}
//   reconnect               ->  hello {cursors}: the streams go on where they were

const LOBBY = 'lobby'; // everybody who ever came is a member, so it is the list of all users
const AGAIN = ['unavailable', 'overloaded', 'unknown_outcome', 'rate_limited'];

export class Chat {
  people = new Map(); // user -> {version, online}
  conversations = new Map(); // 'all' or a user -> messages, oldest first
  #streams = new Map(); // stream -> its newest cursors, newest first
  #known = new Set(); // messages that we have, by sender and id
  #asked = new Map(); // id -> {frame, since, resolve}: what has no answer yet
  #turn = 0; // whose node's turn it is
  #attempts = 0; // since the last welcome

  /** `urls`: the nodes, tried in turn. `tell(what, value)`: 'status' (a text), 'ready', 'people', 'message'. */
  constructor({ urls, user, WebSocket, tell }) {
    Object.assign(this, { urls, user, WebSocket, tell, inbox: `user:${user}` });
    this.#connect(0);
  }

  /** Stored when the promise says `sent`; until then it is tried again, over every reconnect, and stored once. */
  send(conversation, text) {
    // The echo is a copy in the own inbox: for the user's other devices, and for the history of the conversation.
    const to = conversation === 'all' ? { to: 'all' } : { to: `user:${conversation}`, echo: true };
    return this.#ask({ type: 'send', body: text, ...to });
  }

  /** Brings older messages of a conversation; gives the cursor of the page before, if there is one. */
  async history(conversation, before) {
    const of = conversation === 'all' ? { of: 'all' } : { of: this.inbox, with: `user:${conversation}` };
    const answer = await this.#ask({ type: 'history', before, limit: 50, ...of });
    for (const message of answer.messages ?? []) this.#take(message);
    return answer.more ? answer.before : undefined;
  }

  #connect(after_ms) {
    setTimeout(() => {
      const url = this.urls[this.#turn++ % this.urls.length];
      const user = encodeURIComponent(this.user);
      const socket = new this.WebSocket(`${url}/v1/connect?user=${user}`, 'switchboard.v1.json');
      let bye = {};
      this.socket = socket;
      socket.onopen = () => {
        // The newest cursor, and those of about 8 and 64 messages ago in case the newest is gone after a failover.
        const cursors = {};
        for (const [of, list] of this.#streams) cursors[of] = [list[0], list[8], list[64]].filter(Boolean);
        socket.send(JSON.stringify({ type: 'hello', cursors }));
      };
      socket.onmessage = ({ data }) => {
        const frame = JSON.parse(data);
        if (frame.type === 'bye') bye = frame;
        else this.#on(frame);
      };
      socket.onclose = ({ code }) => this.#comeBack(bye.code ?? code, bye);
      socket.onerror = () => {}; // `close` follows and says the same
    }, after_ms);
  }

  #comeBack(code, { reason = '', reconnect_ms }) {
    this.open = false;
    // Questions are asked anew after the next welcome; messages wait for it.
    for (const [id, { frame, resolve }] of this.#asked) {
      if (frame.type === 'send') continue;
      this.#asked.delete(id);
      resolve({ type: 'error', code: 'unavailable' });
    }
    if (code >= 4000 && code < 4500) return this.tell('status', `closed for good: ${code} ${reason}`);
    this.tell('status', 'disconnected, coming back');
    this.#connect(reconnect_ms ?? Math.random() * Math.min(5_000, 250 * 2 ** this.#attempts++));
  }

  #on(frame) {
    switch (frame.type) {
      case 'welcome':
        return this.#welcome(frame);
      case 'stream':
      case 'reset':
        this.#place(frame.of, frame.cursor);
        // From here on nothing is missed, so a history that is asked for now leaves no gap.
        if (frame.of === 'all') this.tell('ready');
        return;
      case 'message':
        return this.#take(frame, true);
      case 'presence_change':
        return this.#seen(frame.user, frame);
      case 'member_change':
        // Somebody new: from now on we want to hear of him, too.
        if (frame.joined && !this.people.has(frame.user)) this.#watch({ users: [frame.user] });
        return;
      default: {
        const asked = this.#asked.get(frame.id);
        if (!asked) return;
        if (frame.type === 'error' && asked.frame.type === 'send' && AGAIN.includes(frame.code) && !frame.final) {
          setTimeout(() => this.#write(frame.id), frame.retry_ms ?? 500);
          return;
        }
        this.#asked.delete(frame.id);
        if (frame.type === 'error') this.tell('status', `${frame.code}: ${frame.message}`);
        asked.resolve(frame);
      }
    }
  }

  async #welcome(frame) {
    this.open = true;
    this.#attempts = 0;
    this.tell('status', `connected to ${frame.node}`);
    for (const stream of frame.streams) this.#place(stream.of, stream.cursor);
    for (const id of this.#asked.keys()) this.#write(id);
    await this.#ask({ type: 'join', group: LOBBY });
    await this.#watch({ group: LOBBY });
  }

  async #watch(whom) {
    const { online = {} } = await this.#ask({ type: 'watch', ...whom });
    for (const [user, presence] of Object.entries(online)) this.#seen(user, presence);
  }

  /** Versions only grow, so a late "offline" cannot hide a newer "online". */
  #seen(user, { version, online }) {
    if (version < (this.people.get(user)?.version ?? 0)) return;
    this.people.set(user, { version, online });
    this.tell('people');
  }

  #place(of, cursor) {
    if (this.#streams.get(of)?.[0] !== cursor) this.#streams.set(of, [cursor]);
  }

  /** A message's stream is its `to` if that is a group or `all`, else the own inbox. */
  #take(message, live = false) {
    if (live && message.cursor) {
      const of = message.to.startsWith('user:') ? this.inbox : message.to;
      const list = this.#streams.get(of) ?? [];
      this.#streams.set(of, [message.cursor, ...list].slice(0, 65));
    }
    const name = `${message.from} ${message.id}`;
    if (this.#known.has(name)) return; // again, after a reset; or in the history, too
    this.#known.add(name);
    const other = message.from === this.inbox ? message.to : message.from;
    const conversation = message.to === 'all' ? 'all' : other.slice('user:'.length);
    const list = this.conversations.get(conversation) ?? [];
    this.conversations.set(conversation, list);
    list.push(message);
    list.sort((one, other) => one.at - other.at || (one.seq ?? 0) - (other.seq ?? 0));
    this.tell('message', { ...message, conversation, live });
  }

  #ask(frame) {
    const id = crypto.randomUUID();
    return new Promise((resolve) => {
      this.#asked.set(id, { frame: { ...frame, id }, since: Date.now(), resolve });
      this.#write(id);
    });
  }

  /** Writes a request. One that was written before is a retry, which a node looks for before it stores it. */
  #write(id) {
    const asked = this.#asked.get(id);
    if (!asked || !this.open) return;
    const again = asked.written && asked.frame.type === 'send';
    const retry = again ? { retry: true, age_ms: Date.now() - asked.since } : {};
    asked.written = true;
    this.socket.send(JSON.stringify({ ...asked.frame, ...retry }));
  }
}
