"""Nodes come and go while messages flow. Nothing is lost, nothing comes twice, the order stays."""

from __future__ import annotations

import pytest

from support.client import ENCODINGS, Client, nothing_else
from support.flow import Receiver, Sender
from support.processes import eventually

COUNT = 400


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_when_the_receivers_node_is_killed_he_resumes_on_the_other_one(start_fleet, alice, bob, encoding):
    fleet = start_fleet("--rate-limit", "off")
    receiver = Receiver([fleet.b, fleet.a], bob, encoding)
    with Client.open(fleet.a, alice, encoding) as client:
        sender = Sender(client, f"user:{bob}", COUNT)
        sender.start()
        receiver.read(COUNT // 4)
        fleet.b.kill()
        receiver.read(COUNT)
        refs = sender.finish()
        assert receiver.connections == 2 and receiver.client.welcome["node"].startswith(fleet.a.node_name)
        assert receiver.bodies == list(range(COUNT))
        assert receiver.resets == [] and len(set(refs)) == COUNT
        nothing_else(client, receiver.client)


def test_through_haproxy_messages_cross_nodes_and_clients_survive_the_death_of_one(start_fleet, alice, bob):
    """The way clients really connect: one address, and whatever node is behind it."""
    fleet = start_fleet("--rate-limit", "off", balanced=True)
    receiver = Receiver([fleet.balancer], bob)
    home = receiver.client.welcome["node"]
    victim = next(node for node in fleet.nodes if home.startswith(node.node_name))
    survivor = next(node for node in fleet.nodes if node is not victim)
    with Client.open(survivor, alice) as direct, Client.open(fleet.balancer, f"{alice}-too", "msgpack") as proxied:
        assert proxied.welcome["node"] != home, "leastconn puts the second client on the other node"
        proxied.send(f"user:{bob}", "through two doors")
        receiver.read(1)
        assert receiver.bodies.pop() == "through two doors"
        sender = Sender(direct, f"user:{bob}", COUNT)
        sender.start()
        receiver.read(COUNT // 4)
        victim.kill()
        receiver.read(COUNT)
        sender.finish()
        assert receiver.bodies == list(range(COUNT)) and receiver.resets == []
        assert receiver.client.welcome["node"].startswith(survivor.node_name)
        nothing_else(direct, receiver.client)


def test_sigterm_lets_the_balancer_know_first_then_says_goodbye_and_ends_well(start_fleet, alice, bob):
    fleet = start_fleet("--drain-delay", "2s", "--drain", "1s")
    stays = Client.open(fleet.a, alice)
    leaves = [Client.open(fleet.b, f"{bob}-{number}", encoding) for number, encoding in enumerate(ENCODINGS * 3)]
    fleet.b.terminate()
    eventually("a leaving node is not ready", lambda: fleet.b.get("/readyz").status == 503, 1.5)
    assert fleet.b.get("/healthz").status == 200 and fleet.a.get("/readyz").status == 200
    stays.send(leaves[0].address, "still here")
    assert leaves[0].message()["body"] == "still here", "unready, but serving, until the delay is over"
    for client in leaves:
        goodbye = client.goodbye()
        assert goodbye.code == 4500
        assert goodbye.frame is not None and goodbye.frame["code"] == 4500
        assert isinstance(goodbye.frame["reconnect_ms"], int) and goodbye.frame["reconnect_ms"] >= 0
    assert fleet.b.exit_status(10) == 0
    assert stays.ping()["type"] == "pong"
    stays.close()


def test_a_node_that_leaves_loses_nothing_of_what_flows(start_fleet, alice, bob):
    fleet = start_fleet("--rate-limit", "off", "--drain-delay", "0s", "--drain", "1s")
    receiver = Receiver([fleet.b, fleet.a], bob)
    with Client.open(fleet.a, alice) as client:
        sender = Sender(client, f"user:{bob}", COUNT)
        sender.start()
        receiver.read(COUNT // 4)
        fleet.b.terminate()
        receiver.read(COUNT)
        sender.finish()
        assert receiver.bodies == list(range(COUNT)) and receiver.resets == []
        nothing_else(client, receiver.client)
    assert fleet.b.exit_status(10) == 0
