"""Both are connected, each to another node. What one sends, the other gets: whole, once, in order.

Every message crosses two processes and a real Redis, so these tests also hold the two encodings against each other.
"""

from __future__ import annotations

import base64
import json
import math
from urllib.parse import quote

import msgpack
import pytest

from support.client import ENCODINGS, Client, check_durable, new_id, nothing_else

BODIES = [
    None, True, False, 0, -1, 1.5, -0.0, 0.1, 1e300, 5e-324, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1,
    "", "a\"b\\c/d\n\t\u0000\u001f\u007f", "žluťoučký kůň 你好 \u2028 \U0001f980 e\u0301", "x" * 20_000,
    [], {}, [[[[[[[[]]]]]]]], {"": {"": [None, {"a": [1, "2", 3.25]}]}}, list(range(300)),
    {"type": "bye", "code": 4500, "to": "all", "seq": 1, "cursor": "no", "id": 7},
    {"ключ": "значение", "键": "值", "\U0001f511": True, "deep": {"list": [1, [2, [3, {"four": 4}]]], "none": None}},
]  # fmt: skip


def same(one, other) -> bool:
    """Equal values of equal types: Python says that 1 == True == 1.0, and -0.0 == 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_message_reaches_the_user_on_the_other_node(fleet, alice, bob, encoding):
    with Client.open(fleet.b, bob, encoding) as receiver, Client.open(fleet.a, alice, encoding) as sender:
        assert sender.welcome["node"] != receiver.welcome["node"]
        id_ = new_id()
        sent = sender.send(receiver.address, {"text": "hello"}, id_)
        assert isinstance(sent["ref"], str) and sent["ref"]
        message = receiver.message()
        check_durable(message, sender, receiver, id_, {"text": "hello"})
        assert message["at"] == sent["at"], "both sides see the same time"
        assert "again" not in message
        sender_again = receiver.send(sender.address, "and back")
        assert sender.message()["at"] == sender_again["at"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_welcome_tells_a_client_all_that_it_needs(fleet, bob, encoding):
    with Client.open(fleet.a, bob, encoding, device="phone") as client:
        welcome = client.welcome
        assert (welcome["user"], welcome["device"]) == (bob, "phone")
        assert isinstance(welcome["connection"], str) and welcome["connection"]
        assert isinstance(welcome["node"], str) and welcome["node"].startswith("a")
        assert (welcome["heartbeat_ms"], welcome["max_bytes"]) == (25_000, 65_536)
        assert client.inbox["status"] == "new" and client.inbox["replay"] == 0
        assert client.inbox["cursor"], "there is a cursor from the first moment on, also for an empty inbox"


def test_the_encoding_can_be_chosen_without_a_subprotocol(fleet, alice, bob):
    """Several mini-program hosts cannot set one. What was not offered is not echoed."""
    by_query = Client.open(fleet.b, bob, "msgpack", query=f"?user={bob}&format=msgpack", subprotocol=False)
    by_default = Client.open(fleet.a, alice, "json", subprotocol=False)
    with by_query as receiver, by_default as sender:
        assert receiver.socket.subprotocol is None and sender.socket.subprotocol is None
        sender.send(receiver.address, [1, 2, 3])
        assert receiver.message()["body"] == [1, 2, 3]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("other", ENCODINGS)
def test_every_kind_of_body_arrives_as_it_was_sent(fleet, alice, bob, encoding, other):
    with Client.open(fleet.b, bob, other) as receiver, Client.open(fleet.a, alice, encoding) as sender:
        for body in BODIES:
            sender.put({"type": "send", "id": new_id(), "to": receiver.address, "body": body})
        for body in BODIES:
            arrived = receiver.message()["body"]
            assert same(arrived, body), f"{body!r} became {arrived!r}"


def test_a_json_body_keeps_every_byte_between_json_clients(fleet, alice, bob):
    """Parsing and printing would lose digits of large numbers, `1.0`, the spelling of escapes, the order of keys."""
    body = '{"z": 1.0, "a":1E+2,"big":123456789012345678901234567890,"small":0.1000000000000000000001,"u":"\\u00e9"}'
    with Client.open(fleet.b, bob) as receiver, Client.open(fleet.a, alice) as sender:
        sender.socket.send(f'{{"type":"send","id":"raw","to":"{receiver.address}","body":{body}}}')
        assert sender.answer("raw")["type"] == "sent"
        receiver.message()
        assert body in receiver.raw[-1]


def test_a_messagepack_body_keeps_every_byte_between_messagepack_clients(fleet, alice, bob):
    """Single floats, binary, and integers that are longer than necessary."""
    body = msgpack.packb({"bin": b"\x00\xff", "single": 0.5}, use_single_float=True)
    body = b"\x92" + body + b"\xcf" + bytes(7) + b"\x07"
    with Client.open(fleet.b, bob, "msgpack") as receiver, Client.open(fleet.a, alice, "msgpack") as sender:
        frame = msgpack.packb({"type": "send", "id": "raw", "to": receiver.address, "body": 0})
        assert frame.endswith(b"\xa4body\x00")
        sender.socket.send(frame[:-1] + body)
        assert sender.answer("raw")["type"] == "sent"
        assert receiver.message()["body"] == [{"bin": b"\x00\xff", "single": 0.5}, 7]
        assert body in receiver.raw[-1]


def test_binary_becomes_base64_for_json_clients_and_binary_again(fleet, alice, bob):
    data = bytes(range(256))
    boxed = {"$base64": base64.b64encode(data).decode()}
    with Client.open(fleet.b, bob, "json") as text, Client.open(fleet.a, alice, "msgpack") as binary:
        binary.send(text.address, {"picture": data, "list": [b"", data]})
        assert text.message()["body"] == {"picture": boxed, "list": [{"$base64": ""}, boxed]}
        text.send(binary.address, {"picture": boxed, "list": [{"$base64": ""}, boxed]})
        assert binary.message()["body"] == {"picture": data, "list": [b"", data]}


@pytest.mark.parametrize("body", [msgpack.ExtType(5, b"x"), float("nan"), float("inf"), {"deep": [float("-inf")]}])
def test_what_json_cannot_say_is_refused(fleet, alice, bob, body):
    with Client.open(fleet.b, bob, "json") as receiver, Client.open(fleet.a, alice, "msgpack") as sender:
        answer = sender.ask({"type": "send", "to": receiver.address, "body": body})
        assert (answer["type"], answer["code"]) == ("error", "bad_request")
        nothing_else(sender, receiver)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_five_hundred_messages_sent_without_waiting_keep_their_order(fleet, alice, bob, encoding):
    with Client.open(fleet.b, bob, encoding) as receiver, Client.open(fleet.a, alice, encoding) as sender:
        ids = [new_id("order") for _ in range(500)]
        for number, id_ in enumerate(ids):
            sender.put({"type": "send", "id": id_, "to": receiver.address, "body": number})
        messages = receiver.messages(500)
        assert [message["body"] for message in messages] == list(range(500))
        assert [message["id"] for message in messages] == ids
        first = messages[0]["seq"]
        assert [message["seq"] for message in messages] == list(range(first, first + 500))
        assert len({message["cursor"] for message in messages}) == 500
        answers = [sender.answer(id_) for id_ in ids]
        assert {answer["type"] for answer in answers} == {"sent"}
        assert len({answer["ref"] for answer in answers}) == 500
        assert not [frame for frame in sender.unread if frame["type"] in ("sent", "error")], "one answer each"


def test_a_batch_of_frames_is_executed_in_order_and_answered_one_by_one(fleet, alice, bob):
    """Only a client that asked for arrays gets arrays."""
    with Client.open(fleet.b, bob, batch=True) as receiver, Client.open(fleet.a, alice) as sender:
        ids = [new_id("batch") for _ in range(20)]
        batch = [{"type": "send", "id": id_, "to": receiver.address, "body": place} for place, id_ in enumerate(ids)]
        sender.put(batch)
        assert [message["body"] for message in receiver.messages(20)] == list(range(20))
        assert {sender.answer(id_)["type"] for id_ in ids} == {"sent"}
        assert all(isinstance(json.loads(data), dict) for data in sender.raw)


def test_every_connection_of_a_user_gets_every_message(fleet, alice, bob):
    with Client.open(fleet.a, bob) as phone, Client.open(fleet.b, bob, "msgpack") as laptop:
        with Client.open(fleet.a, alice) as sender:
            for number in range(10):
                sender.send(phone.address, number)
            at_phone, at_laptop = phone.messages(10), laptop.messages(10)
            assert [message["body"] for message in at_phone] == list(range(10))
            assert at_phone == at_laptop


def test_a_user_can_write_to_himself(fleet, alice):
    with Client.open(fleet.a, alice) as client:
        id_ = new_id()
        client.send(client.address, "note", id_)
        check_durable(client.message(), client, client, id_, "note")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_ephemeral_message_reaches_only_who_is_attached_and_has_no_place_in_the_inbox(fleet, alice, bob, encoding):
    with Client.open(fleet.a, alice, encoding) as sender:
        with Client.open(fleet.b, bob, encoding) as receiver:
            id_ = new_id()
            sent = sender.send(receiver.address, "typing", id_, ephemeral=True)
            assert "ref" not in sent and isinstance(sent["at"], int)
            message = receiver.message()
            assert (message["id"], message["from"], message["body"]) == (id_, sender.address, "typing")
            assert "seq" not in message and "cursor" not in message
            cursor = receiver.inbox["cursor"]
        sender.send(f"user:{bob}", "nobody hears this", ephemeral=True)
        with Client.open(fleet.a, bob, encoding, cursors=cursor) as back:
            assert (back.inbox["status"], back.inbox["replay"]) == ("resumed", 0)
            nothing_else(sender, back)


@pytest.mark.parametrize("name", ["a}{b", "*", "all", "user:x", "100%41", "spaces and \u00fc 你好", "n" * 128])
def test_an_unusual_but_legal_name_is_a_user_like_any_other(fleet, alice, name):
    """Names become a part of Redis keys and channels, and must not be able to steer one."""
    with Client.open(fleet.b, name, query=f"?user={quote(name)}") as receiver, Client.open(fleet.a, alice) as sender:
        id_ = new_id()
        sender.send(f"user:{name}", "you?", id_)
        check_durable(receiver.message(), sender, receiver, id_, "you?")
