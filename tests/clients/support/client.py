"""A client of the protocol over the `websockets` library, in both encodings.

It is deliberately thin: it encodes, decodes, and sorts what comes into "messages" and "answers". It never repairs,
drops or reorders anything, so that what a test sees is what was on the wire.
"""

from __future__ import annotations

import itertools
import json
import math
import socket as sockets
import time
from typing import Callable

import msgpack
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

# How long a test waits for something that must come. Far above what is normal, because machines of CI are slow.
PATIENCE_S = 10.0

ENCODINGS = ["json", "msgpack"]

_ids = itertools.count(1)


def new_id(prefix: str = "m") -> str:
    return f"{prefix}-{next(_ids)}"


def encode(frame, encoding: str) -> str | bytes:
    if encoding == "json":
        return json.dumps(frame, ensure_ascii=False, allow_nan=False)
    return msgpack.packb(frame)


def decode(data: str | bytes, encoding: str):
    """One encoding a connection: JSON comes as text, MessagePack as binary, and as nothing else."""
    if encoding == "json":
        assert isinstance(data, str), f"a binary frame on a JSON connection: {data!r}"
        return json.loads(data)
    assert isinstance(data, bytes), f"a text frame on a MessagePack connection: {data!r}"
    return msgpack.unpackb(data)


def open_socket(
    place, query: str = "", encoding: str = "json", subprotocol: bool = True, **options
) -> ClientConnection:
    """A WebSocket and nothing more. `place` is a node or the balancer."""
    return connect(
        f"{place.client_url}/v1/connect{query}",
        subprotocols=[Subprotocol(f"switchboard.v1.{encoding}")] if subprotocol else None,
        proxy=None,
        legacy=True,  # no context manager: most connections here outlive the function that opens them
        max_queue=None,  # a test that reads late must not be mistaken for a slow network
        open_timeout=PATIENCE_S,
        close_timeout=2,
        **options,
    )


class Refused(Exception):
    """The server said `bye` and closed, instead of `welcome`."""

    def __init__(self, goodbye: "Goodbye"):
        super().__init__(f"{goodbye.code} {goodbye.frame}")
        self.goodbye = goodbye


class Goodbye:
    """How a connection ended: the `bye` frame, if there was one, and the close code (1006: none came)."""

    def __init__(self, frame: dict | None, code: int):
        self.frame, self.code = frame, code


class Client:
    def __init__(self, connection: ClientConnection, encoding: str, user: str):
        self.socket, self.encoding, self.user = connection, encoding, user
        self.address = f"user:{user}"
        self.raw: list[str | bytes] = []
        self.unread: list[dict] = []
        self.welcome: dict = {}

    # How a connection begins.

    @classmethod
    def open(
        cls, place, user: str, encoding: str = "json", cursors: str | list[str] | None = None, token: str | None = None,
        query: str | None = None, subprotocol: bool = True, headers: dict[str, str] | None = None,
        streams: dict[str, list[str]] | None = None, **hello,
    ) -> "Client":  # fmt: skip
        """Connects, says `hello`, waits for `welcome`. `cursors` are those of the own inbox, newest first; `streams` has
        those of other streams."""
        if query is None:
            query = f"?user={user}" if token is None else ""
        client = cls(open_socket(place, query, encoding, subprotocol, additional_headers=headers), encoding, user)
        if subprotocol:
            assert client.socket.subprotocol == f"switchboard.v1.{encoding}", "the offered subprotocol is not echoed"
        if cursors is not None:
            hello["cursors"] = {client.address: [cursors] if isinstance(cursors, str) else cursors}
        if streams is not None:
            hello["cursors"] = hello.get("cursors", {}) | streams
        if token is not None:
            hello["token"] = token
        client.put({"type": "hello", **hello})
        return client.wait_welcome()

    @classmethod
    def open_auto(cls, place, user: str, encoding: str = "json", cursor: str | None = None) -> "Client":
        """The short way for plain clients: everything is in the address, and no `hello` is sent."""
        query = f"?user={user}&auto=1" + (f"&cursor={cursor}" if cursor else "")
        return cls(open_socket(place, query, encoding), encoding, user).wait_welcome()

    def wait_welcome(self) -> "Client":
        try:
            first = self.next()
        except ConnectionClosed:
            raise Refused(Goodbye(None, self.socket.close_code)) from None
        if first["type"] == "bye":
            raise Refused(self.goodbye(first))
        assert first["type"] == "welcome", f"the first frame is no `welcome`: {first}"
        assert first["user"] == self.user
        self.welcome = first
        return self

    @property
    def inbox(self) -> dict:
        """What `welcome` said about the own inbox."""
        own = [stream for stream in self.welcome["streams"] if stream["of"] == self.address]
        assert len(own) == 1, f"`welcome` has the own inbox once: {self.welcome}"
        return own[0]

    # Frames.

    def put(self, frame: dict | list) -> None:
        self.socket.send(encode(frame, self.encoding))

    def receive(self, timeout: float) -> None:
        """Reads one WebSocket message into `unread`; an array of frames counts as its frames."""
        data = self.socket.recv(timeout=timeout)
        self.raw.append(data)
        decoded = decode(data, self.encoding)
        self.unread.extend(decoded if isinstance(decoded, list) else [decoded])

    def next(
        self, wanted: Callable[[dict], bool] = lambda _: True, timeout: float = PATIENCE_S, what: str = "a frame"
    ) -> dict:
        """The first frame not yet taken that is wanted. Others wait for somebody else to take them."""
        end = time.monotonic() + timeout
        seen = 0
        while True:
            for place in range(seen, len(self.unread)):
                if wanted(self.unread[place]):
                    return self.unread.pop(place)
            seen = len(self.unread)
            left = end - time.monotonic()
            assert left > 0, f"{self.user} did not get {what} within {timeout:g} s; unread: {self.unread[-20:]}"
            try:
                self.receive(left)
            except TimeoutError:
                continue

    def of_type(self, kind: str, timeout: float = PATIENCE_S) -> dict:
        return self.next(lambda frame: frame["type"] == kind, timeout, f"`{kind}`")

    def message(self, timeout: float = PATIENCE_S) -> dict:
        return self.of_type("message", timeout)

    def messages(self, count: int) -> list[dict]:
        return [self.message() for _ in range(count)]

    def answer(self, id_: str, timeout: float = PATIENCE_S) -> dict:
        """The one answer with this id. A `message` has an id too, but it answers nothing."""
        return self.next(lambda f: f.get("id") == id_ and f["type"] != "message", timeout, f"an answer to {id_}")

    def ask(self, frame: dict, timeout: float = PATIENCE_S) -> dict:
        frame = {"id": new_id("q"), **frame}
        self.put(frame)
        return self.answer(frame["id"], timeout)

    def send(self, to: str, body, id_: str | None = None, **fields) -> dict:
        """Sends one message and gives back its `sent`."""
        answer = self.ask({"type": "send", "id": id_ or new_id(), "to": to, "body": body, **fields})
        assert answer["type"] == "sent", f"not sent: {answer}"
        return answer

    def ping(self) -> dict:
        return self.ask({"type": "ping"})

    # Groups and people.

    def join(self, group: str, **fields) -> dict:
        answer = self.ask({"type": "join", "group": group, **fields})
        assert answer["type"] == "ok" and answer["cursor"], f"not joined: {answer}"
        return answer

    def leave(self, group: str) -> None:
        answer = self.ask({"type": "leave", "group": group})
        assert answer["type"] == "ok", f"not left: {answer}"

    def stream(self, of: str) -> dict:
        """The frame that says where a further stream starts."""
        return self.next(lambda f: f["type"] == "stream" and f["of"] == of, what=f"the stream of {of}")

    def message_of(self, of: str, timeout: float = PATIENCE_S) -> dict:
        """The next message to this address; messages of other streams wait."""
        return self.next(lambda f: f["type"] == "message" and f["to"] == of, timeout, f"a message to {of}")

    def messages_of(self, of: str, count: int) -> list[dict]:
        return [self.message_of(of) for _ in range(count)]

    def change(self, kind: str, timeout: float = PATIENCE_S, **wanted) -> dict:
        """The next change of this kind with these values; others of the kind that come before are thrown away."""
        while True:
            frame = self.of_type(kind, timeout)
            if all(frame.get(name) == value for name, value in wanted.items()):
                return frame

    def refused(self, frame: dict) -> str:
        """Asks for what gets an error, and gives back its code."""
        answer = self.ask(frame)
        assert answer["type"] == "error", f"not refused: {answer}"
        assert answer["message"], f"an error says what was expected: {answer}"
        return answer["code"]

    def stays_silent(self, seconds: float, kinds: tuple[str, ...]) -> None:
        """Nothing of these kinds comes for so long, and the connection lives."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                self.receive(left)
            except TimeoutError:
                break
        self.ping()
        heard = [frame for frame in self.unread if frame["type"] in kinds]
        assert not heard, f"{self.user} heard {heard}"

    # How a connection ends.

    def goodbye(self, bye: dict | None = None, timeout: float = PATIENCE_S) -> Goodbye:
        """Reads until the server closes, and checks that `bye` and the close code say the same."""
        end = time.monotonic() + timeout
        try:
            while True:
                if bye is None:
                    bye = next((frame for frame in self.unread if frame["type"] == "bye"), None)
                left = end - time.monotonic()
                assert left > 0, f"{self.user} is still connected after {timeout:g} s; `bye`: {bye}"
                try:
                    self.receive(left)
                except TimeoutError:
                    continue
        except ConnectionClosed:
            if bye is None:
                bye = next((frame for frame in self.unread if frame["type"] == "bye"), None)
        if bye is not None:
            assert bye["code"] == self.socket.close_code, f"`bye` and the close code differ: {bye}"
        return Goodbye(bye, self.socket.close_code)

    def close(self) -> None:
        self.socket.close()

    def vanish(self) -> None:
        """The connection is gone without any goodbye, as when an app is killed."""
        self.socket.socket.shutdown(sockets.SHUT_RDWR)
        self.socket.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def nothing_else(sender: Client, receiver: Client) -> None:
    """Proves that no further message is on its way: what is sent now arrives next, and the order is the promise."""
    marker = new_id("marker")
    sender.send(receiver.address, marker)
    following = receiver.message()
    assert following["body"] == marker, f"something else came first: {following}"


def check_durable(message: dict, sender: Client, receiver: Client, id_: str, body) -> None:
    """What every durable message has, live or replayed."""
    assert message["to"] == receiver.address
    assert message["from"] == sender.address
    assert message["id"] == id_
    assert message["body"] == body and type(message["body"]) is type(body)
    assert isinstance(message["seq"], int) and message["seq"] >= 1
    assert isinstance(message["cursor"], str) and 0 < len(message["cursor"]) <= 36
    assert isinstance(message["at"], int) and math.isclose(message["at"] / 1000, time.time(), abs_tol=120)
