"""Real processes on free ports of this machine: Redis, Switchboard nodes, HAProxy.

Each has a log file, is ended by its own process id, and never by name. The rule for ports: they are taken from below
the range that the kernel gives to outgoing connections, so that none of our own clients can sit on one by chance.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from support.http import Answer, request

REPOSITORY = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("SWITCHBOARD_BIN") or REPOSITORY / "target" / "debug" / "switchboard")
HAPROXY_CONFIG = REPOSITORY / "deploy" / "haproxy" / "haproxy.cfg"

# Debug builds on two busy cores need about a second; this is for the day when they need ten.
START_S = 20.0

_taken: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, and that this test run has not handed out before."""
    for _ in range(200):
        port = random.randrange(20_000, 32_000)
        if port in _taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _taken.add(port)
        return port
    raise RuntimeError("no free port between 20000 and 32000")


def program(name: str) -> str:
    """Where a program is; daemons live in sbin, which is not in everybody's PATH."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")
    if not found:
        raise RuntimeError(f"{name} is not installed; scripts/test installs it, or says how")
    return found


def eventually(what: str, check, seconds: float = START_S):
    """Asks until the answer is true, and gives it back. `what` says what was hoped for."""
    end = time.monotonic() + seconds
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.03)


class Process:
    """One child process with a log. `name` is what a failed test prints above that log."""

    everyone: list["Process"] = []

    def __init__(self, name: str, argv: list[str], environment: dict[str, str] | None = None):
        self.name = name
        self.argv = argv
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SWITCHBOARD_")}
        self.environment = clean | {"RUST_BACKTRACE": "1"} | (environment or {})
        descriptor, path = tempfile.mkstemp(prefix=f"switchboard-{name}-", suffix=".log")
        os.close(descriptor)
        self.log = Path(path)
        self.mark = 0
        self.child: subprocess.Popen | None = None
        Process.everyone.append(self)

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.child = subprocess.Popen(
                self.argv, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    @property
    def is_running(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def kill(self) -> None:
        """SIGKILL: no goodbye, no clean-up, as a crash or a lost machine."""
        if self.is_running:
            self.child.kill()
        if self.child is not None:
            self.child.wait(10)

    def terminate(self) -> None:
        self.child.send_signal(signal.SIGTERM)

    def exit_status(self, seconds: float) -> int:
        return self.child.wait(seconds)

    def said(self) -> str:
        """What it wrote since the present test began; the end of it, if that is a lot."""
        text = self.log.read_bytes()[self.mark :].decode("utf-8", "replace")
        return text if len(text) <= 12_000 else "[…]\n" + text[-12_000:]

    def must_run(self, what: str) -> None:
        assert self.is_running, f"{self.name} ended with {self.child.returncode} {what}:\n{self.said()}"

    def remove(self) -> None:
        self.kill()
        self.log.unlink(missing_ok=True)
        if self in Process.everyone:
            Process.everyone.remove(self)


class Redis(Process):
    """A redis-server with an append-only file, as an operator should run it. It may be killed and started again."""

    def __init__(self, name: str = "redis"):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.directory = tempfile.mkdtemp(prefix="switchboard-redis-")
        super().__init__(name, [
            program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.directory,
            "--appendonly", "yes", "--save", "", "--daemonize", "no",
        ])  # fmt: skip

    def start(self) -> "Redis":
        super().start()
        eventually("Redis answers PING", self.answers)
        return self

    def answers(self) -> bool:
        self.must_run("at its start")
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def remove(self) -> None:
        super().remove()
        shutil.rmtree(self.directory, ignore_errors=True)


class Node(Process):
    """One `switchboard serve`. Flags that a test gives come after the usual ones."""

    def __init__(self, name: str, redis: str | None, *flags: str, auth: str = "none", environment=None):
        self.port, self.internal_port = free_port(), free_port()
        self.client_url = f"ws://127.0.0.1:{self.port}"
        argv = [
            str(BINARY), "serve", "--node-name", name, "--auth", auth,
            "--listen", f"127.0.0.1:{self.port}", "--internal", f"127.0.0.1:{self.internal_port}",
        ]  # fmt: skip
        super().__init__(f"node-{name}", argv + (["--redis", redis] if redis else []) + list(flags), environment)
        self.node_name = name

    def get(self, path: str) -> Answer:
        """From the listener for clients."""
        return request(self.port, "GET", path)

    def internal(self, method: str, path: str, body=None, key: str | None = None, **headers: str) -> Answer:
        """From the listener for operators and back ends."""
        return request(self.internal_port, method, path, body, key, **headers)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 for one that is not there yet."""
        lines = self.internal("GET", "/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + " ", name + "{")))

    def is_ready(self) -> bool:
        self.must_run("before it was ready")
        return self.get("/readyz").status == 200

    def wait_ready(self, seconds: float = START_S) -> "Node":
        eventually(f"{self.name} says 200 at /readyz", self.is_ready, seconds)
        return self


class Balancer(Process):
    """HAProxy with the configuration of deploy/haproxy, in front of two nodes."""

    def __init__(self, first: Node, second: Node):
        self.port = free_port()
        self.client_url = f"ws://127.0.0.1:{self.port}"
        super().__init__("haproxy", [program("haproxy"), "-db", "-f", str(HAPROXY_CONFIG)], {
            "SWITCHBOARD_LB_BIND": f"127.0.0.1:{self.port}",
            "SWITCHBOARD_LB_METRICS": f"127.0.0.1:{free_port()}",
            "SWITCHBOARD_LB_MAXCONN": "1000",
            "SWITCHBOARD_NODE_A": f"127.0.0.1:{first.port}",
            "SWITCHBOARD_NODE_B": f"127.0.0.1:{second.port}",
        })  # fmt: skip

    def start(self) -> "Balancer":
        super().start()
        eventually("a node answers through HAProxy", self.is_ready)
        return self

    def is_ready(self) -> bool:
        self.must_run("at its start")
        return request(self.port, "GET", "/readyz").status == 200


class Fleet:
    """A Redis and the nodes on it. Ends everything that it started."""

    def __init__(self, redis: Redis, nodes: list[Node], balancer: Balancer | None = None):
        self.redis, self.nodes, self.balancer = redis, nodes, balancer

    @classmethod
    def start(cls, *flags: str, names: str = "ab", balanced: bool = False, prefix: str = "") -> "Fleet":
        redis = Redis(f"{prefix}redis").start()
        nodes = [Node(prefix + name, redis.url, *flags) for name in names]
        fleet = cls(redis, nodes)
        try:
            for node in nodes:
                node.start()
            for node in nodes:
                node.wait_ready()
            if balanced:
                fleet.balancer = Balancer(*nodes)
                fleet.balancer.start()
        except Exception as error:
            for process in [redis, *nodes]:
                error.add_note(f"--- log of {process.name} ---\n{process.said()}")
            fleet.remove()
            raise
        return fleet

    @property
    def a(self) -> Node:
        return self.nodes[0]

    @property
    def b(self) -> Node:
        return self.nodes[1]

    def remove(self) -> None:
        for process in [self.balancer, *self.nodes, self.redis]:
            if process is not None:
                process.remove()
