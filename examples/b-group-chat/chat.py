#!/usr/bin/env python3
"""A group chat in a terminal: every line goes to everybody in the group, whatever node they are on.

    the tutorial                                   here
    /websocket, Upgrade                        ->  /v1/connect, `hello`, `welcome`
    clients[conn] = true                       ->  `join {group}`; it lasts until `leave`, over restarts
    redis PUBLISH chat, after conn.ReadMessage ->  `send {to: "group:ID"}`, answered by `sent` when it is stored
    redis SUBSCRIBE chat, for c := range clients   `message`; the nodes do this, each for its own connections
    delete(clients, conn)                      ->  nothing: who comes back is told what he missed

Needs `websockets` (pip install websockets).
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import threading
import time
import uuid

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake


class GroupChat:
    def __init__(self, urls: list[str], user: str, group: str):
        self.urls, self.user, self.group = urls, user, group
        self.cursors: dict[str, str] = {}  # by stream: behind the last message that was printed
        self.acknowledged: dict[str, str] = {}
        self.unanswered: dict[str, tuple[dict, float]] = {}  # id -> frame, and when it was written first
        self.known: set[tuple[str, str]] = set()
        self.written: set[str] = set()
        self.lines: asyncio.Queue[str | None] = asyncio.Queue()
        self.is_over = False

    async def run(self) -> None:
        """Comes back until the input has ended and everything that was typed is stored."""
        for attempt, url in enumerate(itertools.cycle(self.urls)):
            try:
                async with connect(f"{url}/v1/connect?user={self.user}", subprotocols=["switchboard.v1.json"]) as socket:
                    await self.session(socket)
                    return
            except (OSError, InvalidHandshake, ConnectionClosed) as end:
                code = end.rcvd.code if isinstance(end, ConnectionClosed) and end.rcvd else 1006
                if 4000 <= code < 4500:
                    sys.exit(f"closed for good: {code} {end}")
            print("* disconnected, coming back", flush=True)
            await asyncio.sleep(random.uniform(0, min(5, 0.1 * 2 ** min(attempt, 6))))

    async def session(self, socket) -> None:
        # A named device keeps its place on the node, so the next start of this program goes on behind what was printed.
        await self.put(socket, {"type": "hello", "device": "terminal", "cursors": self.cursors})
        tasks = [asyncio.create_task(self.acknowledge(socket))]
        try:
            while not (self.is_over and not self.unanswered):
                frame = json.loads(await socket.recv())
                if frame["type"] == "welcome":
                    print(f"* connected to {frame['node']}", flush=True)
                    self.cursors |= {stream["of"]: stream["cursor"] for stream in frame["streams"]}
                    await self.put(socket, {"type": "join", "id": "join", "group": self.group})
                    for id_ in list(self.unanswered):
                        await self.write(socket, id_)
                    tasks.append(asyncio.create_task(self.type(socket)))
                elif frame["type"] == "message":
                    self.take(frame)
                elif frame["type"] in ("stream", "reset"):
                    self.cursors[frame["of"]] = frame["cursor"]
                elif frame["type"] == "error" and frame.get("retry_ms") and frame.get("id") in self.unanswered:
                    asyncio.get_running_loop().call_later(
                        frame["retry_ms"] / 1000, lambda id_=frame["id"]: asyncio.create_task(self.write(socket, id_))
                    )
                elif frame.get("id") == "join" and frame["type"] == "ok":
                    print(f"* in the group {self.group}", flush=True)
                elif frame.get("id"):
                    self.unanswered.pop(frame["id"], None)
                    if frame["type"] == "error":
                        print(f"* {frame['code']}: {frame['message']}", flush=True)
            await self.acknowledge_now(socket)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def take(self, message: dict) -> None:
        """Prints what is new."""
        if "cursor" not in message:
            return
        stream = message["to"] if message["to"].startswith("group:") or message["to"] == "all" else f"user:{self.user}"
        self.cursors[stream] = message["cursor"]
        name = (message["from"], message["id"])
        if message["to"] == f"group:{self.group}" and name not in self.known:  # known: it came again after a `reset`
            self.known.add(name)
            print(f"{message['from'].removeprefix('user:')}: {message['body']}", flush=True)

    async def acknowledge(self, socket) -> None:
        while True:
            await asyncio.sleep(1)
            await self.acknowledge_now(socket)

    async def acknowledge_now(self, socket) -> None:
        """Says how far everything has been printed: where this device starts next time."""
        for stream, cursor in self.cursors.items():
            if self.acknowledged.get(stream) != cursor:
                self.acknowledged[stream] = cursor
                await self.put(socket, {"type": "ack", "of": stream, "cursor": cursor})

    async def type(self, socket) -> None:
        """Sends what is typed. A line that was read is kept until it is stored, whatever becomes of this connection."""
        while (line := await self.lines.get()) is not None:
            id_ = str(uuid.uuid4())
            frame = {"type": "send", "id": id_, "to": f"group:{self.group}", "body": line}
            self.unanswered[id_] = (frame, time.monotonic())
            await self.write(socket, id_)
        self.is_over = True
        self.lines.put_nowait(None)  # for the next connection, if this one is cut
        await self.put(socket, {"type": "ping"})  # wakes the reader, which sees that it is over

    async def write(self, socket, id_: str) -> None:
        """A line that was written before is a retry: the node looks for it before it stores it."""
        if id_ not in self.unanswered:
            return
        frame, since = self.unanswered[id_]
        if id_ in self.written:
            frame = frame | {"retry": True, "age_ms": int((time.monotonic() - since) * 1000)}
        self.written.add(id_)
        await self.put(socket, frame)

    async def put(self, socket, frame: dict) -> None:
        await socket.send(json.dumps(frame))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="ws://127.0.0.1:8080", help="nodes, with commas between")
    parser.add_argument("--user", required=True)
    parser.add_argument("--group", default="chat")
    arguments = parser.parse_args()
    chat = GroupChat(arguments.url.split(","), arguments.user, arguments.group)
    loop = asyncio.get_running_loop()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(chat.lines.put_nowait, line.rstrip("\n"))
        loop.call_soon_threadsafe(chat.lines.put_nowait, None)

    # A thread, because a file or a terminal is read in no other way on every system; it ends with the program.
    threading.Thread(target=read, daemon=True).start()
    await chat.run()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
