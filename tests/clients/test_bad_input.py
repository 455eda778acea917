"""What hostile or broken clients get. One connection ends, with a reason; the node and everybody else go on."""

from __future__ import annotations

import os
import socket
import time

import msgpack
import pytest
from websockets.exceptions import InvalidStatus

from support.client import Client, encode, new_id, nothing_else, open_socket
from support.http import request

# The limit is 32.
DEEP = 40

# what, the connection's encoding, the WebSocket payload, whether it goes as a text frame, the close code
FATAL = [
    ("half a map", "json", b'{"type":"ping"', True, 4000),
    ("two maps", "json", b'{"type":"ping"} {"type":"ping"}', True, 4000),
    ("a number", "json", b"42", True, 4000),
    ("an array of numbers", "json", b"[1,2]", True, 4000),
    ("nothing", "json", b"", True, 4000),
    ("nested too deep", "json", b'{"type":"ping","pad":' + b"[" * DEEP + b"]" * DEEP + b"}", True, 4000),
    ("nested very deep", "json", b"[" * 30_000, True, 4000),
    ("no MessagePack", "msgpack", b"\xc1", False, 4000),
    ("half a map", "msgpack", b"\x82\xa4type\xa4ping", False, 4000),
    ("bytes behind the map", "msgpack", msgpack.packb({"type": "ping"}) + b"\x00", False, 4000),
    ("an array of four billion", "msgpack", b"\xdd\xff\xff\xff\xff", False, 4000),
    ("nested very deep", "msgpack", b"\x91" * 30_000, False, 4000),
    ("binary on JSON", "json", b'{"type":"ping"}', False, 1003),
    ("text on MessagePack", "msgpack", b'{"type":"ping"}', True, 1003),
    ("text that is not UTF-8", "json", b'{"type":"\xff\xfe"}', True, 1007),
    ("more than max_bytes", "json", b'{"type":"ping","pad":"' + b"x" * 70_000 + b'"}', True, 1009),
    ("more than max_bytes", "msgpack", msgpack.packb({"type": "ping", "pad": bytes(70_000)}), False, 1009),
]


@pytest.mark.parametrize(
    ("encoding", "payload", "is_text", "code"), [row[1:] for row in FATAL], ids=[f"{row[1]}: {row[0]}" for row in FATAL]
)
def test_a_frame_that_cannot_be_read_gets_bye_and_the_right_close_code(fleet, bob, encoding, payload, is_text, code):
    client = Client.open(fleet.a, bob, encoding)
    client.socket.send(payload, text=is_text)
    goodbye = client.goodbye()
    assert goodbye.code == code
    assert goodbye.frame is not None and goodbye.frame["reason"], "a close code does not always reach the application"
    with Client.open(fleet.a, bob) as next_one:
        assert next_one.ping()["type"] == "pong"


def test_a_first_frame_that_is_no_hello_closes_the_connection(fleet, bob):
    client = Client(open_socket(fleet.a, f"?user={bob}"), "json", bob)
    client.put({"type": "send", "id": "early", "to": f"user:{bob}", "body": 1})
    goodbye = client.goodbye()
    assert (goodbye.code, goodbye.frame["code"]) == (4000, 4000)
    assert not any(frame.get("id") == "early" for frame in client.unread), "and nothing was executed"


def test_the_largest_frame_allowed_passes(fleet, alice, bob):
    with Client.open(fleet.b, bob) as receiver, Client.open(fleet.a, alice) as sender:
        frame = {"type": "send", "id": "large", "to": receiver.address, "body": ""}
        frame["body"] = "x" * (65_536 - len(encode(frame, "json")))
        assert len(encode(frame, "json")) == 65_536
        assert sender.ask(frame)["type"] == "sent"
        assert receiver.message()["body"] == frame["body"]


def raw_socket(node, user: str) -> socket.socket:
    """A WebSocket by hand, for what no library would send."""
    connection = socket.create_connection(("127.0.0.1", node.port), 5)
    connection.sendall(
        f"GET /v1/connect?user={user}&auto=1 HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096)
    assert head.startswith(b"HTTP/1.1 101"), head
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    data = b""
    connection.settimeout(10)
    while piece := connection.recv(65_536):
        data += piece
    return data


MASK = bytes(4)
BREACHES = {
    "not masked": b"\x81\x02{}",
    "a reserved bit": b"\xf1\x82" + MASK + b"{}",
    "an unknown opcode": b"\x83\x82" + MASK + b"{}",
    "a ping of 126 bytes": b"\x89\xfe\x00\x7e" + MASK + bytes(126),
    "a ping in pieces": b"\x09\x80" + MASK,
    "a continuation of nothing": b"\x80\x82" + MASK + b"{}",
    "a close code of one byte": b"\x88\x81" + MASK + b"\x03",
}


@pytest.mark.parametrize("frame", BREACHES.values(), ids=BREACHES)
def test_a_breach_of_the_websocket_protocol_closes_with_1002(fleet, bob, frame):
    with raw_socket(fleet.a, bob) as connection:
        connection.sendall(frame)
        data = read_to_end(connection)
    assert b"\x88" in data, f"no close frame: {data!r}"
    close = data[data.rindex(b"\x88") :]
    assert int.from_bytes(close[2:4], "big") == 1002, f"closed with {close!r}"


def test_a_frame_that_claims_to_be_endless_is_refused_at_its_header(fleet, bob):
    """The length is refused before a byte of it is stored."""
    with raw_socket(fleet.a, bob) as connection:
        connection.sendall(b"\x82\xff\x7f" + b"\xff" * 7 + MASK)
        data = read_to_end(connection)
    assert int.from_bytes(data[data.rindex(b"\x88") :][2:4], "big") in (1002, 1009)


def test_http_faults_are_refused_before_the_upgrade(fleet, bob):
    assert fleet.a.get("/v1/connect?user=x").status in (400, 426)
    assert request(fleet.a.port, "POST", "/v1/connect?user=x").status in (400, 405, 426)
    assert fleet.a.get("/socket.io/?EIO=4&transport=polling").status == 404
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{fleet.a.port}.evil.example"):
        with pytest.raises(InvalidStatus) as refused:
            open_socket(fleet.a, f"?user={bob}", origin=origin)
        assert refused.value.response.status_code == 403
    own = open_socket(fleet.a, f"?user={bob}&auto=1", origin=f"http://127.0.0.1:{fleet.a.port}")
    own.close()


def test_the_server_api_is_not_on_the_listener_for_clients(fleet, bob):
    assert request(fleet.a.port, "POST", "/v1/send", {"to": f"user:{bob}", "body": 1}).status in (404, 405)
    assert fleet.a.get("/metrics").status == 404


def test_noise_instead_of_http_harms_nobody(fleet, alice, bob):
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", fleet.a.port), 5) as connection:
            connection.sendall(os.urandom(2_000))
    with Client.open(fleet.b, bob) as receiver, Client.open(fleet.a, alice) as sender:
        nothing_else(sender, receiver)


def test_too_many_frames_a_second_are_answered_and_not_executed(start_node, fleet, alice, bob):
    """The default: 100 a second, 200 at once. `retry_ms` says when the next one is welcome."""
    node = start_node("limited", fleet.redis.url)
    with Client.open(fleet.b, bob) as receiver, Client.open(node, alice) as sender:
        ids = [new_id("burst") for _ in range(400)]
        for place, id_ in enumerate(ids):
            sender.put({"type": "send", "id": id_, "to": receiver.address, "body": place})
        answers = [sender.answer(id_) for id_ in ids]
        sent = [place for place, answer in enumerate(answers) if answer["type"] == "sent"]
        refused = [answer for answer in answers if answer["type"] == "error"]
        assert len(sent) + len(refused) == 400
        assert 200 <= len(sent) < 400
        assert {answer["code"] for answer in refused} == {"rate_limited"}
        assert all(answer["retry_ms"] > 0 for answer in refused)
        assert [message["body"] for message in receiver.messages(len(sent))] == sent
        time.sleep(max(answer["retry_ms"] for answer in refused) / 1000 + 0.1)
        nothing_else(sender, receiver)
