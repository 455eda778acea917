#!/usr/bin/env python3
"""The data model of a chat, built and read through the protocol and the server API: no key of Redis is touched.

    the tutorial's data                            here
    user:ID, a hash of the profile             ->  `profile`, a claim of the user's token; shown in `members` and `presence`
    chat:ID:members                            ->  PUT /v1/groups/{group}/members/{user}; `members`
    user:ID:chats                              ->  `groups` in `welcome`
    chat:ID:messages                           ->  `send` to `group:ID`; `history {of}`
    the messages of two                        ->  `send` to `user:ID` with `echo`; `history {of, with}`
    online, a set                              ->  `presence {group}`
    user:ID:offline, drained on return         ->  the inbox: `welcome` and then `message`; `ack` says what is done with
    counters by chat and sender                ->  `counts {of}`: `total`, `by`
    unread                                     ->  `counts {of}`: `unread`, behind what `read` says; `receipts` for the sender
    subscriptions of a connection              ->  `stream`, one for each group, without being asked for

Needs `websockets` (pip install websockets), and nodes with `--auth jwt`.
"""

import argparse
import base64
import hashlib
import hmac
import itertools
import json
import os
import time
import urllib.request

from websockets.sync.client import connect


def token(secret: str, user: str, profile: dict) -> str:
    """What a back end gives to a user who has logged in (RFC 7519, HS256)."""

    def text(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    claims = {"sub": user, "exp": int(time.time()) + 3_600, "profile": profile}
    head = {"alg": "HS256", "typ": "JWT"}
    signed = ".".join(text(json.dumps(part).encode()) for part in (head, claims))
    return f"{signed}.{text(hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest())}"


class User:
    """One connection of a user, who asks one thing after the other."""

    def __init__(self, url: str, secret: str, name: str, profile: dict, device: str = "phone"):
        self.name, self.ids, self.messages, self.streams = name, itertools.count(1), [], {}
        self.socket = connect(f"{url}/v1/connect", subprotocols=["switchboard.v1.json"])
        self.put({"type": "hello", "token": token(secret, name, profile), "device": device})
        self.welcome = self.next(lambda frame: frame["type"] == "welcome")

    def put(self, frame: dict) -> None:
        self.socket.send(json.dumps(frame))

    def next(self, wanted) -> dict:
        """Reads until the wanted frame; messages and streams that come before it are kept."""
        while True:
            frame = json.loads(self.socket.recv(timeout=10))
            if frame["type"] == "message":
                self.messages.append(frame)
            if frame["type"] == "stream":
                self.streams[frame["of"]] = frame
            if wanted(frame):
                return frame

    def ask(self, type_: str, **fields) -> dict:
        id_ = f"{self.name}-{next(self.ids)}-{time.time_ns()}"
        self.put({"type": type_, "id": id_, **fields})
        answer = self.next(lambda frame: frame["type"] != "message" and frame.get("id") == id_)
        assert answer["type"] != "error", answer
        return answer

    def heard(self, count: int) -> list[dict]:
        """The next messages, when there are so many."""
        while len(self.messages) < count:
            self.next(lambda frame: frame["type"] == "message")
        heard, self.messages = self.messages[:count], self.messages[count:]
        return heard


def show(what: str, value) -> None:
    print(f"{what}: {json.dumps(value, ensure_ascii=False)}", flush=True)


def bodies(messages: list[dict]) -> list[str]:
    return [f"{message['from'].removeprefix('user:')}: {message['body']}" for message in messages]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="ws://127.0.0.1:8080", help="a node's listener for clients")
    parser.add_argument("--api", default="http://127.0.0.1:8081", help="a node's internal listener")
    parser.add_argument("--secret", default=os.environ.get("SWITCHBOARD_JWT_SECRET"), help="that the nodes know")
    parser.add_argument("--prefix", default=f"{time.time_ns():x}-"[-9:], help="what this run's names begin with")
    a = parser.parse_args()
    names = {who: a.prefix + who.lower() for who in ("Alice", "Bob", "Carol")}
    team, book_club = a.prefix + "team", a.prefix + "books"

    def api(method: str, path: str) -> None:
        urllib.request.urlopen(urllib.request.Request(a.api + path, method=method)).close()

    def user(who: str, **more) -> User:
        return User(a.url, a.secret, names[who], {"name": who, "color": "blue"}, **more)

    # Chats and their members: a back end says who is in which.
    for who in names.values():
        api("PUT", f"/v1/groups/{team}/members/{who}")
    api("PUT", f"/v1/groups/{book_club}/members/{names['Carol']}")

    # Alice and Bob come, Carol is away.
    alice, bob = user("Alice"), user("Bob")
    show("a user's chats", alice.welcome["groups"])
    show("members of a chat, with their profiles", alice.ask("members", group=team)["members"])

    # Messages of a chat.
    first = alice.ask("send", to=f"group:{team}", body="Lunch?")
    bob.ask("send", to=f"group:{team}", body="At one.")
    alice.ask("send", to=f"group:{team}", body="Good.")
    heard = bob.heard(3)
    show("messages of a chat", bodies(heard))
    page = bob.ask("history", of=f"group:{team}", limit=2)
    show("its history, newest first, two a page", bodies(page["messages"]))
    show("the page before", bodies(bob.ask("history", of=f"group:{team}", before=page["before"])["messages"]))

    # A conversation of two: the echo is what makes it the same history for both.
    alice.ask("send", to=f"user:{names['Bob']}", body="Just us?", echo=True)
    bob.ask("send", to=f"user:{names['Alice']}", body="Just us.", echo=True)
    alice.ask("send", to=f"user:{names['Carol']}", body="Are you there?", echo=True)
    between = alice.ask("history", of=f"user:{names['Alice']}", **{"with": f"user:{names['Bob']}"})
    show("a conversation of two, newest first", bodies(between["messages"]))

    # Who is there.
    online = alice.ask("presence", group=team)["online"]
    show("online", sorted(who for who, presence in online.items() if presence["online"]))

    # Counters, and what Bob has not read.
    counts = bob.ask("counts", of=f"group:{team}")
    show("messages by sender", counts["by"])
    show("unread by Bob", counts["unread"])
    bob.ask("read", of=f"group:{team}", cursor=heard[-1]["cursor"])
    show("after he has read", bob.ask("counts", of=f"group:{team}")["unread"])
    show("who has read the first message", alice.ask("receipts", ref=first["ref"])["read"])

    # Carol comes: what she missed is there, and what she acknowledges is not told again.
    carol = user("Carol")
    missed = carol.heard(4)
    show("what Carol missed", sorted(bodies(missed)))
    while len([of for of in carol.streams if of.startswith("group:")]) < len(carol.welcome["groups"]):
        carol.next(lambda frame: frame["type"] == "stream")
    show("her subscriptions", sorted(of for of in carol.streams if of.startswith("group:")))
    for message in missed:
        of = message["to"] if message["to"].startswith("group:") else f"user:{names['Carol']}"
        carol.put({"type": "ack", "of": of, "cursor": message["cursor"]})
    time.sleep(1.5)  # acknowledged places are stored once a second
    carol.socket.close()
    again = user("Carol")
    alice.ask("send", to=f"user:{names['Carol']}", body="Welcome back.", echo=True)
    show("and when she comes again", bodies(again.heard(1)))


if __name__ == "__main__":
    main()
