"""What back ends and operators use: the internal listener."""

from __future__ import annotations

import re

import pytest

from support.client import ENCODINGS, Client, new_id
from support.processes import Node, eventually

KEY = "a key that back ends of this test have"

METRICS = [
    "switchboard_connections", "switchboard_connections_opened_total", "switchboard_messages_received_total",
    "switchboard_messages_delivered_total", "switchboard_delivery_seconds_bucket", "switchboard_append_seconds_bucket",
    "switchboard_append_batch_size_bucket", "switchboard_queue_bytes", "switchboard_backplane_up",
    "switchboard_build_info",
]  # fmt: skip


@pytest.fixture(scope="module")
def keyed(fleet):
    """A node whose server API asks for a key."""
    node = Node("keyed", fleet.redis.url, environment={"SWITCHBOARD_API_KEY": KEY})
    node.start()
    yield node.wait_ready()
    node.remove()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_back_end_reaches_a_connected_client(fleet, bob, encoding):
    with Client.open(fleet.b, bob, encoding) as receiver:
        id_ = new_id("api")
        answer = fleet.a.internal("POST", "/v1/send", {"to": receiver.address, "body": {"order": 7}, "id": id_})
        assert answer.status == 200
        sent = answer.json
        assert (sent["type"], sent["id"]) == ("sent", id_) and sent["ref"]
        message = receiver.message()
        assert (message["from"], message["id"], message["body"]) == ("service:api", id_, {"order": 7})
        assert message["at"] == sent["at"] and message["cursor"]


def test_an_array_is_answered_in_order_one_by_one(fleet, bob):
    with Client.open(fleet.b, bob) as receiver:
        wanted = [
            {"to": receiver.address, "body": 0},
            {"to": "nobody", "body": 1},
            {"to": receiver.address, "body": 2, "from": "service:billing"},
            {"to": receiver.address, "body": 3, "ephemeral": True},
        ]
        answer = fleet.a.internal("POST", "/v1/send", wanted)
        assert answer.status == 200
        assert [one["type"] for one in answer.json] == ["sent", "error", "sent", "sent"]
        assert answer.json[1]["code"] == "bad_request"
        got = [receiver.message() for _ in range(3)]
        assert sorted(message["body"] for message in got) == [0, 2, 3]
        durable = [message for message in got if "seq" in message]
        assert [(m["body"], m["from"]) for m in durable] == [(0, "service:api"), (2, "service:billing")]


def test_a_retried_call_is_stored_once(fleet, bob):
    with Client.open(fleet.b, bob) as receiver:
        wanted = {"to": receiver.address, "body": "once", "id": new_id("api")}
        first = fleet.a.internal("POST", "/v1/send", wanted).json
        again = fleet.b.internal("POST", "/v1/send", {**wanted, "retry": True, "age_ms": 300}).json
        assert first["ref"] == again["ref"]
        marker = fleet.a.internal("POST", "/v1/send", {"to": receiver.address, "body": "marker"})
        assert marker.status == 200
        assert [message["body"] for message in receiver.messages(2)] == ["once", "marker"]


def test_without_the_key_nobody_gets_in(keyed, bob):
    with Client.open(keyed, bob) as receiver:
        wanted = {"to": receiver.address, "body": "?"}
        for key in (None, "", "wrong", KEY[:-1], KEY + "x"):
            answer = keyed.internal("POST", "/v1/send", wanted, key=key)
            assert answer.status == 401, f"with key {key!r}"
            assert answer.json["error"]["code"] == "unauthorized" and answer.json["error"]["message"]
        assert keyed.internal("POST", "/v1/send", {**wanted, "body": "with key"}, key=KEY).status == 200
        assert receiver.message()["body"] == "with key"


def test_probes_and_metrics_need_no_key(keyed):
    for path in ("/metrics", "/healthz", "/readyz"):
        assert keyed.internal("GET", path).status == 200


def test_a_call_that_makes_no_sense_is_told_so(fleet):
    for body in ({}, {"to": "bob", "body": 1}, {"to": "user:bob"}, 7, "text", None):
        answer = fleet.a.internal("POST", "/v1/send", body)
        assert answer.status == 400, f"{body!r}: {answer}"
        assert answer.json["error"]["code"] == "bad_request"


def test_the_send_command_is_a_call_of_the_server_api(keyed, switchboard, bob):
    with Client.open(keyed, bob) as receiver:
        api = f"http://127.0.0.1:{keyed.internal_port}"
        for text, body in (('{"n": 1}', {"n": 1}), ("plain words", "plain words")):
            switchboard("send", "--to", receiver.address, text, "--api", api, "--api-key", KEY)
            assert receiver.message()["body"] == body


def test_metrics_count_what_happens_and_name_nobody(fleet, alice, bob):
    opened = fleet.b.metric("switchboard_connections_opened_total")
    received = fleet.a.metric("switchboard_messages_received_total")
    delivered = fleet.b.metric("switchboard_messages_delivered_total")
    connected = fleet.b.metric("switchboard_connections")
    with Client.open(fleet.b, bob) as receiver, Client.open(fleet.a, alice) as sender:
        assert fleet.b.metric("switchboard_connections") >= connected + 1
        for number in range(10):
            sender.send(receiver.address, number)
        receiver.messages(10)
        receiver.ping()
        assert fleet.a.metric("switchboard_messages_received_total") >= received + 10
        assert fleet.b.metric("switchboard_messages_delivered_total") >= delivered + 10
        assert fleet.b.metric("switchboard_connections_opened_total") >= opened + 1
    page = "\n".join(node.internal("GET", "/metrics").text for node in fleet.nodes)
    here = set(re.findall(r"^([a-z_]+)[ {]", page, re.MULTILINE))
    assert not [name for name in METRICS if name not in here]
    assert fleet.b.metric("switchboard_backplane_up") == 1
    assert bob not in page and alice not in page, "no label carries a user"


def test_a_closed_connection_is_counted_with_its_code(fleet, bob):
    before = fleet.a.metric("switchboard_connections_closed_total")
    client = Client.open(fleet.a, bob)
    client.socket.send("no map at all")
    assert client.goodbye().code == 4000
    eventually("the close is counted", lambda: fleet.a.metric("switchboard_connections_closed_total") > before, 5)
    page = fleet.a.internal("GET", "/metrics").text
    assert re.search(r'^switchboard_connections_closed_total\{[^}]*code="4000"', page, re.MULTILINE)
