"""Redis dies, or is not there yet. Nodes and open connections stay, say so, and come back by themselves."""

from __future__ import annotations

import time

import pytest

from support.client import ENCODINGS, Client, Refused, new_id, nothing_else
from support.flow import Receiver, send_until_sent
from support.processes import eventually


def refused_send(client: Client, to: str, body) -> tuple[str, object, float]:
    """A send that cannot work now. Gives back what a retry needs."""
    id_, begun = new_id("away"), time.monotonic()
    answer = client.ask({"type": "send", "id": id_, "to": to, "body": body}, timeout=20)
    assert answer["type"] == "error" and answer["code"] in ("unavailable", "unknown_outcome"), answer
    return id_, body, begun


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_killed_redis_costs_no_connection_and_no_message_that_was_sent(start_fleet, alice, bob, encoding):
    fleet = start_fleet("--rate-limit", "off")
    receiver = Receiver([fleet.b], bob, encoding)
    with Client.open(fleet.a, alice, encoding) as sender:
        to = f"user:{bob}"
        for number in range(50):
            sender.send(to, number)
        fleet.redis.kill()

        failed = [refused_send(sender, to, number) for number in range(50, 53)]
        for node in fleet.nodes:
            eventually(f"{node.name} is not ready", lambda node=node: node.get("/readyz").status == 503)
            assert node.get("/healthz").status == 200, "and need not be restarted"
            assert node.metric("switchboard_backplane_up") == 0
        assert sender.ping()["type"] == "pong" and receiver.client.ping()["type"] == "pong"
        with pytest.raises(Refused) as refused:
            Client.open(fleet.a, f"{alice}-new", encoding)
        assert (refused.value.goodbye.code, refused.value.goodbye.frame["code"]) == (4503, 4503)
        assert refused.value.goodbye.frame["reconnect_ms"] >= 0

        fleet.redis.start()
        for node in fleet.nodes:
            node.wait_ready(30)
            assert node.metric("switchboard_backplane_up") == 1
        for id_, body, begun in failed:
            send_until_sent(sender, to, body, id_, first_try=begun)
        for number in range(53, 80):
            send_until_sent(sender, to, number, new_id())
        receiver.read(80, 45)
        assert receiver.bodies == list(range(80))
        assert receiver.connections == 1, "it is still the first connection"
        nothing_else(sender, receiver.client)

        with Client.open(fleet.b, bob, encoding, **{"from": "oldest"}) as later:
            kept = [message["body"] for message in later.messages(81)][:80]
            assert kept == list(range(80)), "and somebody who was away finds all of it, once"


def test_a_node_starts_without_redis_and_becomes_ready_when_it_comes(start_node, idle_redis, alice):
    node = start_node("early", idle_redis.url, ready=False)
    eventually("the process answers", lambda: node.get("/healthz").status == 200)
    assert node.get("/readyz").status == 503
    with pytest.raises(Refused) as refused:
        Client.open(node, alice)
    assert refused.value.goodbye.code == 4503
    idle_redis.start()
    node.wait_ready(30)
    with Client.open(node, alice) as client:
        nothing_else(client, client)
