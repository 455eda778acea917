"""A sender that never saw `sent` says the same again, with the same id. It is stored once, whatever happened before."""

from __future__ import annotations

import pytest

from support.client import ENCODINGS, Client, nothing_else


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_retry_is_stored_once_and_gets_the_same_answer(fleet, alice, bob, encoding):
    with Client.open(fleet.b, bob, encoding) as receiver, Client.open(fleet.a, alice, encoding) as sender:
        first = sender.send(receiver.address, "once", "same-id")
        for _ in range(3):
            again = sender.send(receiver.address, "once", "same-id", retry=True, age_ms=40)
            assert (again["ref"], again["at"]) == (first["ref"], first["at"])
        assert receiver.message()["body"] == "once"
        nothing_else(sender, receiver)


def test_a_retry_through_another_node_is_stored_once_too(fleet, alice, bob):
    """What a client does whose node died between storing and answering."""
    with Client.open(fleet.b, bob) as receiver:
        with Client.open(fleet.a, alice) as sender:
            first = sender.send(receiver.address, "once", "same-id")
            sender.vanish()
        with Client.open(fleet.b, alice) as sender:
            assert sender.send(receiver.address, "once", "same-id", retry=True, age_ms=200)["ref"] == first["ref"]
            assert receiver.message()["body"] == "once"
            nothing_else(sender, receiver)


def test_a_retry_is_found_behind_many_younger_messages(fleet, alice, bob):
    with Client.open(fleet.b, bob) as receiver, Client.open(fleet.a, alice) as sender:
        first = sender.send(receiver.address, "once", "same-id")
        for number in range(200):
            sender.put({"type": "send", "id": f"younger-{number}", "to": receiver.address, "body": number})
        assert sender.send(receiver.address, "once", "same-id", retry=True, age_ms=3_000)["ref"] == first["ref"]
        assert [message["body"] for message in receiver.messages(201)] == ["once", *range(200)]
        nothing_else(sender, receiver)


def test_a_retry_of_what_never_arrived_is_stored(fleet, alice, bob):
    with Client.open(fleet.b, bob) as receiver, Client.open(fleet.a, alice) as sender:
        first = sender.send(receiver.address, "late", "lost-id", retry=True, age_ms=500)
        assert sender.send(receiver.address, "late", "lost-id", retry=True, age_ms=600)["ref"] == first["ref"]
        assert receiver.message()["body"] == "late"
        nothing_else(sender, receiver)


def test_first_try_and_retry_in_one_breath_are_stored_once(fleet, alice, bob):
    """Both may travel to Redis in the same batch."""
    with Client.open(fleet.b, bob) as receiver, Client.open(fleet.a, alice) as sender:
        for number in range(20):
            frame = {"type": "send", "id": f"twin-{number}", "to": receiver.address, "body": number}
            sender.put([frame, {**frame, "retry": True, "age_ms": 0}])
        for number in range(20):
            one, other = sender.answer(f"twin-{number}"), sender.answer(f"twin-{number}")
            assert one["type"] == other["type"] == "sent" and one["ref"] == other["ref"]
        assert [message["body"] for message in receiver.messages(20)] == list(range(20))
        nothing_else(sender, receiver)


def test_the_same_id_without_retry_is_a_new_message(fleet, alice, bob):
    with Client.open(fleet.b, bob) as receiver, Client.open(fleet.a, alice) as sender:
        first = sender.send(receiver.address, 1, "same-id")
        second = sender.send(receiver.address, 2, "same-id")
        assert first["ref"] != second["ref"]
        got = [(message["id"], message["body"]) for message in receiver.messages(2)]
        assert got == [("same-id", 1), ("same-id", 2)]
        nothing_else(sender, receiver)


def test_the_same_id_from_another_sender_is_another_message(fleet, alice, bob):
    """A message is known by its sender and its id. Nobody can silence somebody else by guessing ids."""
    with Client.open(fleet.a, bob) as receiver, Client.open(fleet.a, alice) as sender:
        with Client.open(fleet.b, f"not-{alice}") as other:
            first = sender.send(receiver.address, "mine", "same-id")
            second = other.send(receiver.address, "theirs", "same-id", retry=True, age_ms=100)
            assert first["ref"] != second["ref"]
            assert [message["body"] for message in receiver.messages(2)] == ["mine", "theirs"]
            nothing_else(other, receiver)
