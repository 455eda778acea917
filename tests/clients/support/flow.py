"""A sender and a receiver that behave as the protocol tells SDKs to, for tests in which things die."""

from __future__ import annotations

import threading
import time

from websockets.exceptions import ConnectionClosed, InvalidHandshake

from support.client import PATIENCE_S, Client, Refused, new_id

# Answers after which a sender tries again with the same id.
AGAIN = {"unavailable", "overloaded", "unknown_outcome", "rate_limited"}


def send_until_sent(
    client: Client, to: str, body, id_: str, first_try: float | None = None, seconds: float = 30.0
) -> dict:
    """Sends, and retries the same id until it is `sent`. `first_try` (monotonic) says that there was a try before."""
    end = time.monotonic() + seconds
    while True:
        frame = {"type": "send", "id": id_, "to": to, "body": body}
        if first_try is not None:
            frame |= {"retry": True, "age_ms": int((time.monotonic() - first_try) * 1000)}
        else:
            first_try = time.monotonic()
        answer = client.ask(frame, timeout=seconds)
        if answer["type"] == "sent":
            return answer
        assert answer["type"] == "error" and answer["code"] in AGAIN and not answer.get("final"), answer
        assert time.monotonic() < end, f"not sent within {seconds:g} s; the last answer: {answer}"
        time.sleep(answer.get("retry_ms", 100) / 1000)


class Sender(threading.Thread):
    """Sends the numbers 0 … count-1, one after the other, each until it is `sent`."""

    def __init__(self, client: Client, to: str, count: int, pause_s: float = 0.002):
        super().__init__(daemon=True)
        self.client, self.to, self.count, self.pause_s = client, to, count, pause_s
        self.refs: list[str] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            for number in range(self.count):
                self.refs.append(send_until_sent(self.client, self.to, number, new_id("flow"))["ref"])
                time.sleep(self.pause_s)
        except BaseException as failure:  # noqa: BLE001 - it is raised again in the test's own thread
            self.failure = failure

    def finish(self) -> list[str]:
        self.join(60)
        if self.failure is not None:
            raise self.failure
        assert not self.is_alive(), f"the sender is stuck after {len(self.refs)} messages"
        return self.refs


class Receiver:
    """Reads one inbox over as many connections as it takes. Comes back to the next place with its cursors.

    It is as strict as the promise: after a `reset` it drops what it has (`again`), everything else may come only once.
    """

    def __init__(self, places: list, user: str, encoding: str = "json"):
        self.places, self.user, self.encoding = places, user, encoding
        self.bodies: list = []
        self.resets: list[dict] = []
        self.connections = 0
        self._known: set[tuple[str, str]] = set()
        self._cursors: list[str] = []
        self.client = self._open()

    def _resume_with(self) -> list[str] | None:
        """The newest cursor, and those of about 8 and 64 messages ago, as every SDK keeps them."""
        if not self._cursors:
            return None
        return [self._cursors[-back] for back in (1, 9, 65) if back <= len(self._cursors)]

    def _open(self) -> Client:
        end = time.monotonic() + 30
        while True:
            place = self.places[self.connections % len(self.places)]
            self.connections += 1
            try:
                client = Client.open(place, self.user, self.encoding, cursors=self._resume_with())
            except (OSError, InvalidHandshake, ConnectionClosed, Refused):
                assert time.monotonic() < end, f"{self.user} found no way back"
                time.sleep(0.1)
                continue
            self._cursors.append(client.inbox["cursor"])
            if client.inbox["status"] == "reset":
                self.resets.append(client.inbox)
            return client

    def read(self, until: int, seconds: float = 30.0) -> None:
        """Reads until it has so many different messages."""
        end = time.monotonic() + seconds
        while len(self.bodies) < until:
            assert time.monotonic() < end, f"{self.user} has {len(self.bodies)} of {until} messages"
            try:
                self._take(self.client.next(lambda f: f["type"] in ("message", "reset"), PATIENCE_S, "a message"))
            except ConnectionClosed:
                self.client = self._open()

    def _take(self, frame: dict) -> None:
        if frame["type"] == "reset":
            self.resets.append(frame)
            return
        name = (frame["from"], frame["id"])
        self._cursors.append(frame["cursor"])
        if name in self._known:
            assert frame.get("again"), f"{self.user} got a message twice: {frame}"
            return
        self._known.add(name)
        self.bodies.append(frame["body"])
