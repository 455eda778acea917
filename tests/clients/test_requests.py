"""Requests of one connection: history, ping, and what happens to the ones that make no sense."""

from __future__ import annotations

import pytest

from support.client import ENCODINGS, Client, nothing_else

USUAL = ("to", "from", "id", "at", "body", "seq", "cursor")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_history_gives_the_own_inbox_newest_first_and_page_by_page(fleet, alice, bob, encoding):
    with Client.open(fleet.a, alice, encoding) as sender, Client.open(fleet.b, bob, encoding) as reader:
        for number in range(25):
            sender.send(reader.address, number)
        live = reader.messages(25)
        pages, before = [], {}
        for _ in range(3):
            page = reader.ask({"type": "history", "of": reader.address, "limit": 10, **before})
            assert page["type"] == "history"
            pages.append(page)
            before = {"before": page["messages"][-1]["cursor"]}
        assert [len(page["messages"]) for page in pages] == [10, 10, 5]
        assert [page["more"] for page in pages] == [True, True, False]
        past = [{key: message[key] for key in USUAL} for page in pages for message in page["messages"]]
        assert past == [{key: message[key] for key in USUAL} for message in reversed(live)]
        nothing_else(sender, reader)


def test_history_is_there_for_somebody_who_was_never_connected(fleet, alice, bob):
    with Client.open(fleet.a, alice, "msgpack") as sender:
        for number in range(3):
            sender.send(f"user:{bob}", number)
    with Client.open(fleet.b, bob) as reader:
        page = reader.ask({"type": "history", "of": reader.address})
        assert [message["body"] for message in page["messages"]] == [2, 1, 0]
        assert page["more"] is False


def test_history_of_an_empty_inbox_is_empty(fleet, bob):
    with Client.open(fleet.a, bob) as reader:
        page = reader.ask({"type": "history", "of": reader.address, "limit": 200})
        assert (page["messages"], page["more"]) == ([], False)


def test_ephemeral_messages_are_in_no_history(fleet, alice, bob):
    with Client.open(fleet.a, alice) as sender, Client.open(fleet.b, bob) as reader:
        sender.send(reader.address, "kept")
        sender.send(reader.address, "typing", ephemeral=True)
        reader.messages(2)
        page = reader.ask({"type": "history", "of": reader.address})
        assert [message["body"] for message in page["messages"]] == ["kept"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_ping_is_answered_with_pong(fleet, bob, encoding):
    with Client.open(fleet.a, bob, encoding) as client:
        assert client.ask({"type": "ping", "id": "p-1"}) == {"type": "pong", "id": "p-1"}
        client.put({"type": "ping"})
        assert "id" not in client.of_type("pong")
        assert client.socket.ping().wait(5), "a WebSocket ping gets a WebSocket pong"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bare_recipient_is_a_bad_request_that_says_how_to_write_it(fleet, alice, bob, encoding):
    with Client.open(fleet.b, bob, encoding) as receiver, Client.open(fleet.a, alice, encoding) as sender:
        answer = sender.ask({"type": "send", "id": "bare", "to": bob, "body": "?"})
        assert (answer["type"], answer["id"], answer["code"]) == ("error", "bare", "bad_request")
        assert "user:" in answer["message"]
        assert answer["docs"] == "/docs/bad_request"
        assert fleet.a.get(answer["docs"]).status == 200
        nothing_else(sender, receiver)


LONG = "n" * 129
SEND = {"type": "send", "to": "user:a", "body": 1}

BAD_REQUESTS = {
    "an unknown type": {"type": "teleport"},
    "no recipient": {"type": "send", "body": 1},
    "a recipient that is no text": {"type": "send", "to": 7, "body": 1},
    "an unknown kind of address": {"type": "send", "to": "planet:earth", "body": 1},
    "an address without an ID": {"type": "send", "to": "user:", "body": 1},
    "an ID of 129 bytes": {"type": "send", "to": f"user:{LONG}", "body": 1},
    "an ID with a control character": {"type": "send", "to": "user:a\u0000b", "body": 1},
    "a durable message to one device": {"type": "send", "to": "user:a/phone", "body": 1},
    "no body": {"type": "send", "to": "user:a"},
    "a retry of what is not kept": {**SEND, "ephemeral": True, "retry": True, "age_ms": 1},
    "an age that is no number": {**SEND, "retry": True, "age_ms": "old"},
    "a limit of 0": {"type": "history", "of": "user:me", "limit": 0},
    "a limit of 201": {"type": "history", "of": "user:me", "limit": 201},
    "a limit that is no number": {"type": "history", "of": "user:me", "limit": "all"},
    "a second hello": {"type": "hello"},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_request_that_makes_no_sense_gets_one_error_and_the_connection_stays(fleet, alice, bob, encoding):
    with Client.open(fleet.b, bob, encoding) as receiver, Client.open(fleet.a, alice, encoding) as sender:
        for number, (what, frame) in enumerate(BAD_REQUESTS.items()):
            if frame.get("of"):
                frame = {**frame, "of": sender.address}
            answer = sender.ask({**frame, "id": f"bad-{number}"})
            assert answer["type"] == "error" and answer["code"] == "bad_request", f"{what}: {answer}"
            assert answer["message"], f"{what}: the field and what was expected"
        nothing_else(sender, receiver)
        assert not [frame for frame in sender.unread if frame["type"] == "error"], "one error each"


@pytest.mark.parametrize("id_", [None, 7, "", "a/b", "x" * 129, "line\nbreak", ["id"]])
def test_a_request_whose_id_is_none_gets_an_error_and_is_not_executed(fleet, alice, bob, id_):
    with Client.open(fleet.b, bob) as receiver, Client.open(fleet.a, alice) as sender:
        frame = {"type": "send", "id": id_, "to": receiver.address, "body": "never"}
        if id_ is None:
            del frame["id"]
        sender.put(frame)
        error = sender.of_type("error")
        assert error["code"] == "bad_request" and "id" in error["message"]
        nothing_else(sender, receiver)


def test_unknown_fields_are_ignored(fleet, alice, bob):
    """So that a newer client can talk to an older node."""
    with Client.open(fleet.b, bob, future={"a": [1]}) as receiver, Client.open(fleet.a, alice) as sender:
        sender.send(receiver.address, "hello", colour="green", nested={"deep": [1, {"er": None}]})
        message = receiver.message()
        assert message["body"] == "hello" and "colour" not in message


def test_one_bad_frame_of_a_batch_harms_no_other(fleet, alice, bob):
    with Client.open(fleet.b, bob) as receiver, Client.open(fleet.a, alice) as sender:
        sender.put([
            {"type": "send", "id": "b-1", "to": receiver.address, "body": 1},
            {"type": "send", "id": "b-2", "to": "nobody", "body": 2},
            {"type": "send", "id": "b-3", "to": receiver.address, "body": 3},
        ])  # fmt: skip
        assert [sender.answer(id_)["type"] for id_ in ("b-1", "b-2", "b-3")] == ["sent", "error", "sent"]
        assert [message["body"] for message in receiver.messages(2)] == [1, 3]


def test_hello_after_a_welcome_without_hello_is_a_bad_request(fleet, bob):
    with Client.open_auto(fleet.a, bob) as client:
        client.put({"type": "hello"})
        assert client.of_type("error")["code"] == "bad_request"
        assert client.ping()["type"] == "pong"
