"""Somebody was away and comes back, on whatever node: he gets what he missed, once, in order, or is told `reset`."""

from __future__ import annotations

import time

import pytest

from support.client import ENCODINGS, Client, nothing_else

# Acks are gathered for a second before they are stored.
ACK_S = 1.6


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_was_sent_while_away_comes_once_and_in_order_on_the_other_node(fleet, alice, bob, encoding):
    with Client.open(fleet.a, alice, encoding) as sender:
        with Client.open(fleet.b, bob, encoding) as receiver:
            sender.send(receiver.address, "before")
            cursor = receiver.message()["cursor"]
        for number in range(50):
            sender.send(f"user:{bob}", number)
        with Client.open(fleet.a, bob, encoding, cursors=cursor) as back:
            assert (back.inbox["status"], back.inbox["replay"]) == ("resumed", 50)
            assert back.inbox["cursor"] == cursor, "the position before the first message that follows"
            messages = back.messages(50)
            assert [message["body"] for message in messages] == list(range(50))
            assert back.inbox["head"] == messages[-1]["seq"]
            assert not any(message.get("again") for message in messages)
            nothing_else(sender, back)


def test_a_cursor_from_welcome_is_as_good_as_one_from_a_message(fleet, alice, bob):
    """Somebody who never received anything must not miss his first message either."""
    with Client.open(fleet.b, bob) as receiver:
        cursor = receiver.inbox["cursor"]
    with Client.open(fleet.a, alice) as sender:
        sender.send(f"user:{bob}", "the first")
        with Client.open(fleet.a, bob, cursors=cursor) as back:
            assert back.inbox["status"] == "resumed"
            assert back.message()["body"] == "the first"
            nothing_else(sender, back)


def test_messages_sent_during_the_resume_follow_the_missed_ones(fleet, alice, bob):
    """The seam between replay and live delivery: nothing falls into it, nothing comes on both sides of it."""
    with Client.open(fleet.a, alice) as sender:
        with Client.open(fleet.b, bob) as receiver:
            cursor = receiver.inbox["cursor"]
        for number in range(300):
            sender.put({"type": "send", "id": f"seam-{number}", "to": f"user:{bob}", "body": number})
            if number == 150:
                back = Client.open(fleet.b, bob, cursors=cursor)
        with back:
            assert [message["body"] for message in back.messages(300)] == list(range(300))
            nothing_else(sender, back)


def test_the_newest_of_several_cursors_counts(fleet, alice, bob):
    with Client.open(fleet.a, alice) as sender, Client.open(fleet.b, bob) as receiver:
        for number in range(5):
            sender.send(receiver.address, number)
        cursors = [message["cursor"] for message in receiver.messages(5)]
        with Client.open(fleet.a, bob, cursors=[cursors[3], cursors[1], cursors[0]]) as back:
            assert [back.inbox["status"], back.message()["body"]] == ["resumed", 4]
            nothing_else(sender, back)


def test_an_unreadable_cursor_gives_way_to_an_older_one_that_holds(fleet, alice, bob):
    with Client.open(fleet.a, alice) as sender, Client.open(fleet.b, bob) as receiver:
        for number in range(5):
            sender.send(receiver.address, number)
        cursors = [message["cursor"] for message in receiver.messages(5)]
        with Client.open(fleet.a, bob, cursors=["nonsense", cursors[2]]) as back:
            assert [message["body"] for message in back.messages(2)] == [3, 4]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_device_without_cursors_starts_after_its_last_ack(fleet, alice, bob, encoding):
    """The ack is stored within about a second, while the connection stays open."""
    with Client.open(fleet.a, alice, encoding) as sender:
        with Client.open(fleet.b, bob, encoding, device="phone") as phone:
            for number in range(6):
                sender.send(phone.address, number)
            cursors = [message["cursor"] for message in phone.messages(6)]
            phone.put({"type": "ack", "of": phone.address, "cursor": cursors[0]})
            phone.put({"type": "ack", "of": phone.address, "cursor": cursors[2]})
            phone.ping()
            time.sleep(ACK_S)
            with Client.open(fleet.a, bob, encoding, device="phone") as same_device:
                assert (same_device.inbox["status"], same_device.inbox["cursor"]) == ("resumed", cursors[2])
                assert [message["body"] for message in same_device.messages(3)] == [3, 4, 5]
                nothing_else(sender, same_device)


def test_an_ack_is_not_lost_when_the_connection_ends_right_after_it(fleet, alice, bob):
    with Client.open(fleet.a, alice) as sender:
        with Client.open(fleet.b, bob, device="phone") as phone:
            for number in range(4):
                sender.send(phone.address, number)
            phone.put({"type": "ack", "of": phone.address, "cursor": phone.messages(3)[-1]["cursor"]})
            phone.ping()
            phone.vanish()
        time.sleep(ACK_S)
        with Client.open(fleet.a, bob, device="phone") as back:
            assert [back.inbox["status"], back.message()["body"]] == ["resumed", 3]
            nothing_else(sender, back)


def test_a_second_device_gets_everything_from_the_oldest_message_on(fleet, alice, bob):
    with Client.open(fleet.a, alice) as sender:
        with Client.open(fleet.b, bob, device="phone") as phone:
            for number in range(5):
                sender.send(phone.address, number)
            phone.put({"type": "ack", "of": phone.address, "cursor": phone.messages(5)[-1]["cursor"]})
            phone.ping()
        with Client.open(fleet.a, bob, device="tablet") as tablet:
            assert (tablet.inbox["status"], tablet.inbox["replay"]) == ("new", 5)
            assert [message["body"] for message in tablet.messages(5)] == list(range(5))
            nothing_else(sender, tablet)


def test_a_connection_without_a_device_starts_now_unless_it_asks_for_the_oldest(fleet, alice, bob):
    with Client.open(fleet.a, alice) as sender:
        for number in range(3):
            sender.send(f"user:{bob}", number)
        with Client.open(fleet.b, bob) as nameless:
            assert (nameless.inbox["status"], nameless.inbox["replay"]) == ("new", 0)
            nothing_else(sender, nameless)
        with Client.open(fleet.b, bob, **{"from": "oldest"}) as curious:
            assert [message["body"] for message in curious.messages(3)] == [0, 1, 2]
        with Client.open(fleet.b, bob, device="phone", **{"from": "now"}) as forgetful:
            assert forgetful.inbox["replay"] == 0
            nothing_else(sender, forgetful)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_plain_client_resumes_with_a_cursor_in_the_address(fleet, alice, bob, encoding):
    with Client.open(fleet.a, alice, encoding) as sender:
        with Client.open_auto(fleet.b, bob, encoding) as receiver:
            sender.send(receiver.address, "live")
            cursor = receiver.message()["cursor"]
        for number in range(5):
            sender.send(f"user:{bob}", number)
        with Client.open_auto(fleet.a, bob, encoding, cursor) as back:
            assert (back.inbox["status"], back.inbox["replay"]) == ("resumed", 5)
            assert [message["body"] for message in back.messages(5)] == list(range(5))
            nothing_else(sender, back)


@pytest.mark.parametrize("cursor", ["nonsense", "x" * 500, "你好", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"])
def test_an_unreadable_cursor_gets_reset_epoch_and_everything_that_is_kept(fleet, alice, bob, cursor):
    with Client.open(fleet.a, alice) as sender:
        for number in range(3):
            sender.send(f"user:{bob}", number)
        with Client.open(fleet.b, bob, cursors=cursor) as back:
            assert (back.inbox["status"], back.inbox["reason"]) == ("reset", "epoch")
            messages = back.messages(3)
            assert [message["body"] for message in messages] == [0, 1, 2]
            assert all(message.get("again") is True for message in messages)
            nothing_else(sender, back)


def test_a_cursor_of_somebody_else_is_a_reset_and_shows_nothing_of_his(fleet, alice, bob):
    with Client.open(fleet.a, alice) as sender, Client.open(fleet.b, bob) as receiver:
        sender.send(receiver.address, "for bob")
        sender.send(sender.address, "for alice")
        stolen = receiver.message()["cursor"]
        with Client.open(fleet.a, alice, cursors=stolen) as thief:
            assert (thief.inbox["status"], thief.inbox["reason"]) == ("reset", "epoch")
            assert thief.message()["body"] == "for alice"


def test_a_trimmed_inbox_tells_exactly_how_many_messages_are_lost(start_fleet, alice, bob):
    """`--inbox-max 10`, two hundred messages: the client learns the number, gets the rest, and is then up to date."""
    fleet = start_fleet("--inbox-max", "10", "--rate-limit", "off", names="a")
    with Client.open(fleet.a, alice) as sender:
        with Client.open(fleet.a, bob) as receiver:
            sender.send(receiver.address, "seen")
            seen = receiver.message()
        for number in range(200):
            sender.put({"type": "send", "id": f"t-{number}", "to": f"user:{bob}", "body": number})
        assert {sender.answer(f"t-{number}")["type"] for number in range(200)} == {"sent"}
        with Client.open(fleet.a, bob, cursors=seen["cursor"]) as back:
            inbox = back.inbox
            assert (inbox["status"], inbox["reason"]) == ("reset", "retention")
            assert inbox["replay"] >= 10, "what the setting promises to keep is kept"
            assert inbox["lost"] + inbox["replay"] == 200, "every message is either lost or replayed"
            assert inbox["lost"] >= 100, "the limit is a limit"
            messages = back.messages(inbox["replay"])
            assert [message["body"] for message in messages] == list(range(inbox["lost"], 200))
            assert messages[0]["seq"] == seen["seq"] + inbox["lost"] + 1
            nothing_else(sender, back)
            last = messages[-1]["cursor"]
        with Client.open(fleet.a, bob, cursors=last) as up_to_date:
            assert up_to_date.inbox["status"] == "resumed"
