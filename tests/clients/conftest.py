"""Who starts what, and what a failed test prints.

Most tests share one Redis and two nodes and use users of their own. A test that kills something starts a fleet for
itself.
"""

from __future__ import annotations

import itertools
import subprocess

import pytest

from support.processes import BINARY, Fleet, Node, Process, Redis

_users = itertools.count(1)


def pytest_sessionstart(session) -> None:
    if not BINARY.is_file():
        pytest.exit(f"no binary at {BINARY}: run `cargo build` first, or set SWITCHBOARD_BIN", returncode=2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test without the servers' side of the story helps nobody."""
    report = yield
    if report.failed and call.when != "teardown":
        for process in Process.everyone:
            report.sections.append((f"log of {process.name} during this test", process.said()))
    return report


@pytest.fixture(autouse=True)
def only_this_tests_logs():
    for process in Process.everyone:
        process.mark = process.log.stat().st_size


@pytest.fixture(scope="session")
def fleet():
    """Nodes `a` and `b` on one Redis. The rate limit has tests of its own; here it would only slow others down."""
    fleet = Fleet.start("--rate-limit", "off")
    yield fleet
    fleet.remove()


@pytest.fixture
def start_fleet():
    """Starts a fleet that belongs to this test alone, and may be hurt."""
    fleets: list[Fleet] = []

    def start(*flags: str, **options) -> Fleet:
        fleets.append(Fleet.start(*flags, prefix="own-", **options))
        return fleets[-1]

    yield start
    for fleet in fleets:
        fleet.remove()


@pytest.fixture
def start_node():
    """Starts one more node, wherever the test wants it. `ready=False`: the test waits for itself."""
    nodes: list[Node] = []

    def start(name: str, redis: str | None, *flags: str, ready: bool = True, **options) -> Node:
        node = Node(name, redis, *flags, **options)
        nodes.append(node)
        node.start()
        return node.wait_ready() if ready else node

    yield start
    for node in nodes:
        node.remove()


@pytest.fixture
def idle_redis():
    """A Redis that is not started yet."""
    redis = Redis("late-redis")
    yield redis
    redis.remove()


@pytest.fixture
def alice() -> str:
    return f"alice-{next(_users)}"


@pytest.fixture
def bob() -> str:
    return f"bob-{next(_users)}"


@pytest.fixture(scope="session")
def switchboard():
    """Runs a command of the binary to its end and gives back what it printed."""

    def run(*arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [str(BINARY), *arguments], env={"PATH": "/usr/bin:/bin", **environment}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0, f"switchboard {' '.join(arguments)} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    return run
