"""The examples, started as their readers are told to, against two nodes and a real Redis.

The page of example A in a browser is tested in tests/browser.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

from support.client import PATIENCE_S
from support.processes import REPOSITORY, Fleet, eventually

EXAMPLES = REPOSITORY / "examples"
SECRET = "a-secret-of-at-least-thirty-two-bytes"


class Terminal:
    """A program with a terminal: lines in, lines out."""

    def __init__(self, *argv: str):
        self.child = subprocess.Popen(
            argv, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.child.stdout:
            self.lines.append(line.rstrip("\n"))

    def type(self, line: str) -> None:
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def shows(self, pattern: str, seconds: float = PATIENCE_S) -> str:
        """Waits for a line that looks like this."""

        def found() -> str | None:
            return next((line for line in self.lines if re.fullmatch(pattern, line)), None)

        try:
            return eventually(f"a line {pattern!r}", found, seconds)
        except AssertionError as error:
            error.add_note("it showed:\n" + "\n".join(self.lines[-40:]))
            raise

    def all(self, pattern: str) -> list[str]:
        return [line for line in self.lines if re.fullmatch(pattern, line)]

    def ends(self, seconds: float = PATIENCE_S) -> None:
        """The input ends, and the program does what is left and ends too."""
        self.child.stdin.close()
        status = self.child.wait(seconds)
        self.reader.join(5)
        assert status == 0, "it showed:\n" + "\n".join(self.lines)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_) -> None:
        self.child.kill()
        self.child.wait(10)
        self.child.stdin.close()
        self.child.stdout.close()


def urls(*nodes) -> str:
    return ",".join(node.client_url for node in nodes)


def a(fleet: Fleet, user: str, *nodes) -> Terminal:
    program = EXAMPLES / "a-chat-page" / "terminal.mjs"
    return Terminal("node", "--experimental-websocket", str(program), "--user", user, "--url", urls(*nodes))


def b(fleet: Fleet, user: str, *nodes) -> Terminal:
    program = EXAMPLES / "b-group-chat" / "chat.py"
    return Terminal(sys.executable, str(program), "--user", user, "--url", urls(*nodes))


def has_node() -> bool:
    """One that knows WebSockets by itself, with the flag of example A."""
    program = "process.exit(globalThis.WebSocket ? 0 : 1)"
    node = shutil.which("node")
    return bool(node) and subprocess.run([node, "--experimental-websocket", "-e", program]).returncode == 0


@pytest.mark.skipif(not has_node(), reason="Node.js 20.10 or later is not installed")
def test_a_point_to_point_chat_loses_nothing_while_a_node_is_killed(start_fleet):
    fleet = start_fleet("--presence-delay", "1s")
    with a(fleet, "alice", fleet.a, fleet.b) as alice:
        alice.shows(r"\* online: alice")
        with a(fleet, "bob", fleet.b, fleet.a) as bob:
            alice.shows(r"\* online: alice, bob")
            bob.shows(r"\* online: alice, bob")
            with a(fleet, "carol", fleet.b) as carol:
                alice.shows(r"\* online: alice, bob, carol")
                carol.ends()
            eventually("carol has left", lambda: alice.lines[-1] == bob.lines[-1] == "* online: alice, bob", 10)
            alice.type("@bob hello bob")
            bob.shows("alice -> bob: hello bob")
            alice.shows("alice -> bob: hello bob")
            bob.type("good morning")
            for one in (alice, bob):
                one.shows("bob -> everybody: good morning")

            for number in range(60):
                alice.type(f"@bob number {number}")
                bob.type(f"round {number}")
                if number == 20:
                    fleet.b.kill()
                time.sleep(0.01)
            bob.shows("alice -> bob: number 59", 20)
            alice.shows("bob -> everybody: round 59", 20)
            assert bob.all(r"\* disconnected.*"), "he was on the node that was killed"
            assert bob.all("alice -> bob: number .*") == [f"alice -> bob: number {n}" for n in range(60)]
            rounds = [f"bob -> everybody: round {n}" for n in range(60)]
            assert sorted(alice.all("bob -> everybody: round .*")) == sorted(rounds), "each once"
            bob.ends()
        with a(fleet, "bob", fleet.a) as bob:
            bob.shows(r"\* connected to .*")
            bob.type("/history alice")
            bob.shows("  alice -> bob: number 59")
            assert len(bob.all("  alice -> bob: number .*")) == 50 - len(bob.all("  .*hello bob")), "one page"
        alice.ends()


def test_b_a_group_reaches_everybody_on_whatever_node_and_whoever_was_away(start_fleet):
    fleet = start_fleet("--rate-limit", "off")
    with b(fleet, "alice", fleet.a, fleet.b) as alice, b(fleet, "bob", fleet.b, fleet.a) as bob:
        for one in (alice, bob):
            one.shows(r"\* in the group chat")
        with b(fleet, "carol", fleet.b) as carol:
            carol.shows(r"\* in the group chat")
            alice.type("hello")
            for one in (alice, bob, carol):
                one.shows("alice: hello")
            carol.ends()
        for number in range(40):
            alice.type(f"a{number}")
            bob.type(f"b{number}")
            if number == 15:
                fleet.b.kill()
            time.sleep(0.01)
        for one in (alice, bob):
            one.shows("alice: a39", 20)
            one.shows("bob: b39", 20)
        said = alice.all("(alice: a|bob: b).*")
        assert sorted(said) == sorted([f"alice: a{n}" for n in range(40)] + [f"bob: b{n}" for n in range(40)])
        assert bob.all("(alice: a|bob: b).*") == said, "the same order for both"
        with b(fleet, "carol", fleet.a) as carol:
            carol.shows("bob: b39", 20)
            assert carol.all("(alice|bob): .*") == said, "what she missed, and nothing that she has"
            carol.ends()
        alice.ends()
        bob.ends()


def test_c_the_data_model_of_a_chat(fleet, start_node):
    environment = {"SWITCHBOARD_JWT_SECRET": SECRET}
    node = start_node("model", fleet.redis.url, auth="jwt", environment=environment)
    program = EXAMPLES / "c-data-model" / "data_model.py"
    done = subprocess.run(
        [sys.executable, str(program), "--url", node.client_url, "--api", f"http://127.0.0.1:{node.internal_port}",
         "--prefix", "c-"],
        env=os.environ | environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    profiles = ", ".join(
        f'{{"user": "c-{name.lower()}"' + (f', "profile": {{"name": "{name}", "color": "blue"}}}}' if here else "}")
        for name, here in (("Alice", True), ("Bob", True), ("Carol", False))
    )
    assert done.stdout.splitlines() == [
        'a user\'s chats: ["c-team"]',
        f"members of a chat, with their profiles: [{profiles}]",
        'messages of a chat: ["c-alice: Lunch?", "c-bob: At one.", "c-alice: Good."]',
        'its history, newest first, two a page: ["c-alice: Good.", "c-bob: At one."]',
        'the page before: ["c-alice: Lunch?"]',
        'a conversation of two, newest first: ["c-bob: Just us.", "c-alice: Just us?"]',
        'online: ["c-alice", "c-bob"]',
        'messages by sender: {"c-alice": 2, "c-bob": 1}',
        "unread by Bob: 2",
        "after he has read: 0",
        'who has read the first message: ["c-bob"]',
        'what Carol missed: ["c-alice: Are you there?", "c-alice: Good.", "c-alice: Lunch?", "c-bob: At one."]',
        'her subscriptions: ["group:c-books", "group:c-team"]',
        'and when she comes again: ["c-alice: Welcome back."]',
    ]
