"""Groups, everybody's stream, and several connections of one user, over two nodes."""

from __future__ import annotations

import itertools
import threading

import pytest

from support.client import ENCODINGS, Client, new_id, nothing_else
from support.processes import Fleet

_groups = itertools.count(1)

# What a member hears of a group. Everything of it, so that a test that says "nothing" means it.
HEARD = ("message", "member_change")


@pytest.fixture
def group() -> str:
    return f"group-{next(_groups)}"


def member(fleet: Fleet, method: str, group: str, user: str, node: int = 0) -> dict:
    """A back end changes who is in a group."""
    answer = fleet.nodes[node].internal(method, f"/v1/groups/{group}/members/{user}")
    assert answer.status == 200, answer
    return answer.json


def of(group: str) -> str:
    return f"group:{group}"


# Membership that lasts.


@pytest.mark.parametrize("encodings", [("json", "msgpack"), ("msgpack", "json")])
def test_a_group_reaches_members_on_both_nodes_in_one_order(fleet, group, alice, bob, encodings):
    carol = f"{bob}-carol"
    with (
        Client.open(fleet.a, alice, encodings[0]) as one,
        Client.open(fleet.b, bob, encodings[1]) as two,
        Client.open(fleet.b, carol, encodings[0]) as three,
    ):
        for client in (one, two, three):
            client.join(group)

        def send(client: Client) -> None:
            for number in range(20):
                client.put({"type": "send", "id": f"n-{number}", "to": of(group), "body": [client.user, number]})

        senders = [threading.Thread(target=send, args=(client,)) for client in (one, two)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        heard = [client.messages_of(of(group), 40) for client in (one, two, three)]
        assert heard[0] == heard[1] == heard[2], "the same messages, cursors and order everywhere"
        seqs = [message["seq"] for message in heard[0]]
        assert seqs == list(range(seqs[0], seqs[0] + 40))
        for client in (one, two):
            own = [message["body"][1] for message in heard[0] if message["from"] == client.address]
            assert own == list(range(20)), "each sender's order"
            assert all(client.answer(f"n-{number}")["type"] == "sent" for number in range(20))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_member_who_was_away_gets_what_he_missed(fleet, group, alice, bob, encoding):
    with Client.open(fleet.a, alice, encoding) as sender:
        with Client.open(fleet.b, bob, encoding, device="phone") as receiver:
            joined = receiver.join(group)
            sender.send(of(group), "while here")
            first = receiver.message_of(of(group))
            assert first["seq"] >= 1 and joined["cursor"] != first["cursor"]
            receiver.put({"type": "ack", "of": of(group), "cursor": first["cursor"]})
        for number in range(3):
            sender.send(of(group), number)
        with Client.open(fleet.a, bob, encoding, device="phone") as receiver:
            assert receiver.welcome["groups"] == [group]
            stream = receiver.stream(of(group))
            assert (stream["status"], stream["cursor"]) == ("resumed", first["cursor"])
            assert [message["body"] for message in receiver.messages_of(of(group), 3)] == [0, 1, 2]
        with Client.open(fleet.b, bob, encoding, device="tablet") as receiver:
            assert receiver.stream(of(group))["status"] == "new"
            bodies = [message["body"] for message in receiver.messages_of(of(group), 4)]
            assert bodies == ["while here", 0, 1, 2], "a device that was never here starts with the user's join"


def test_nobody_receives_what_was_before_his_join_or_is_after_his_removal(fleet, group, alice, bob):
    with Client.open(fleet.a, alice) as sender, Client.open(fleet.b, bob, device="phone") as receiver:
        sender.join(group)
        sender.send(of(group), "before")
        assert member(fleet, "PUT", group, bob)["members"] == 2
        assert receiver.stream(of(group))["status"] == "new"
        assert sender.change("member_change", user=bob) == {
            "type": "member_change", "group": group, "user": bob, "joined": True, "members": 2,
        }  # fmt: skip
        sender.send(of(group), "within")
        assert receiver.message_of(of(group))["body"] == "within"

        assert member(fleet, "DELETE", group, bob, node=1)["members"] == 1
        assert sender.change("member_change", user=bob)["joined"] is False
        sender.send(of(group), "after")
        sender.send(receiver.address, "marker")
        assert receiver.message()["body"] == "marker"
        receiver.stays_silent(0.3, ("message",))

        member(fleet, "PUT", group, bob, node=1)
        receiver.stream(of(group))
        sender.send(of(group), "again")
        assert receiver.message_of(of(group))["body"] == "again"
        receiver.stays_silent(0.3, ("message",))


def test_membership_that_changes_while_the_user_is_away_is_there_when_he_comes(fleet, group, alice, bob):
    other = f"{group}-other"
    with Client.open(fleet.a, alice) as sender:
        member(fleet, "PUT", other, bob)
        sender.send(of(group), "before")
        member(fleet, "PUT", group, bob)
        sender.send(of(group), "within")
        member(fleet, "DELETE", other, bob)
        sender.send(of(other), "after")
        with Client.open(fleet.b, bob, device="phone") as receiver:
            assert receiver.welcome["groups"] == [group]
            receiver.stream(of(group))
            assert receiver.message_of(of(group))["body"] == "within"
            receiver.stays_silent(0.3, ("message",))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_leaving_ends_the_stream_on_all_connections_of_the_user(fleet, group, alice, bob, encoding):
    with (
        Client.open(fleet.a, alice, encoding) as sender,
        Client.open(fleet.a, bob, encoding) as phone,
        Client.open(fleet.b, bob, encoding) as laptop,
    ):
        sender.join(group)
        phone.join(group)
        laptop.stream(of(group))
        sender.send(of(group), 1)
        assert phone.message_of(of(group))["body"] == laptop.message_of(of(group))["body"] == 1
        laptop.leave(group)
        assert sender.change("member_change", user=bob, joined=False)["members"] == 1
        assert phone.change("member_change", user=bob)["joined"] is False, "the one that asked has its `ok`"
        sender.send(of(group), 2)
        for client in (phone, laptop):
            client.stays_silent(0.3, ("message",))
        assert phone.refused({"type": "leave", "group": group}) == "not_found"
    with Client.open(fleet.a, bob, encoding) as phone:
        assert phone.welcome["groups"] == []


def test_joins_and_leaves_without_pause_are_all_answered_and_each_member_hears_what_he_sends(fleet, group, alice):
    """Four users who come and go in one group, on both nodes, each doing one thing after the other."""
    failures: list[BaseException] = []

    def come_and_go(client: Client) -> None:
        try:
            for number in range(60):
                client.join(group)
                client.send(of(group), [client.user, number])
                while client.message_of(of(group))["body"] != [client.user, number]:
                    pass
                client.leave(group)
        except BaseException as failure:  # noqa: BLE001 - it is raised again in the test's own thread
            failures.append(failure)

    clients = [Client.open(fleet.nodes[number % 2], f"{alice}-{number}") for number in range(4)]
    threads = [threading.Thread(target=come_and_go, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for client in clients:
        client.close()
    if failures:
        raise failures[0]


def test_joins_and_leaves_of_several_groups_at_once_are_all_answered(fleet, group, alice):
    with Client.open(fleet.a, alice) as client:
        types = dict.fromkeys(range(4), "leave")
        for round_ in range(100):
            for slot in types:
                types[slot] = "join" if types[slot] == "leave" else "leave"
                client.put({"type": types[slot], "id": f"{round_}-{slot}", "group": f"{group}-{slot}"})
            for slot in types:
                answer = client.answer(f"{round_}-{slot}")
                assert answer["type"] == "ok", f"{types[slot]} in round {round_}: {answer}"


def test_a_back_end_and_ephemeral_messages_reach_a_group(fleet, group, alice, bob):
    with Client.open(fleet.a, alice) as one, Client.open(fleet.b, bob, "msgpack") as two:
        for client in (one, two):
            client.join(group)
        sent = fleet.b.internal("POST", "/v1/send", {"to": of(group), "body": {"order": 7}, "from": "service:shop"})
        assert sent.status == 200 and sent.json["ref"]
        for client in (one, two):
            message = client.message_of(of(group))
            assert (message["from"], message["body"]) == ("service:shop", {"order": 7}) and message["cursor"]
        assert "ref" not in one.send(of(group), "typing", ephemeral=True)
        for client in (one, two):
            message = client.message_of(of(group))
            assert message["body"] == "typing" and "seq" not in message and "cursor" not in message


def test_a_retry_to_a_group_is_stored_once(fleet, group, alice, bob):
    with Client.open(fleet.a, alice) as one, Client.open(fleet.b, bob) as two:
        two.join(group)
        first = one.send(of(group), "once", id_="same")
        with Client.open(fleet.b, alice) as other:
            assert other.send(of(group), "once", id_="same", retry=True, age_ms=100)["ref"] == first["ref"]
        one.send(of(group), "next")
        assert [message["body"] for message in two.messages_of(of(group), 2)] == ["once", "next"]


# Membership for the life of a connection.


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("way", ["hello", "join"])
def test_a_group_until_disconnect_is_resumed_by_its_cursor(fleet, group, alice, bob, encoding, way):
    with Client.open(fleet.a, alice, encoding) as sender:
        sender.join(group)
        sender.send(of(group), "before")
        receiver = Client.open(fleet.b, bob, encoding)
        receiver.join(group, until="disconnect")
        sender.send(of(group), "live")
        cursor = receiver.message_of(of(group))["cursor"]
        listed = sender.ask({"type": "members", "group": group})
        assert [one["user"] for one in listed["members"]] == [alice], "nobody lists who is there for a while only"
        receiver.vanish()
        for number in range(3):
            sender.send(of(group), number)
        if way == "hello":
            again = Client.open(fleet.a, bob, encoding, streams={of(group): [cursor]})
        else:
            again = Client.open(fleet.a, bob, encoding)
            again.join(group, until="disconnect", cursor=cursor)
        with again:
            assert again.welcome["groups"] == []
            stream = again.stream(of(group))
            assert (stream["status"], stream["cursor"]) == ("resumed", cursor)
            assert [message["body"] for message in again.messages_of(of(group), 3)] == [0, 1, 2]
            sender.send(of(group), "live again")
            assert again.message_of(of(group))["body"] == "live again"
        with Client.open(fleet.b, bob, encoding) as new:
            sender.send(of(group), "not for him")
            new.stays_silent(0.3, HEARD)


def test_a_removal_ends_a_group_until_disconnect_too(fleet, group, alice, bob):
    with Client.open(fleet.a, alice) as sender, Client.open(fleet.b, bob) as receiver:
        receiver.join(group, until="disconnect")
        sender.send(of(group), "within")
        receiver.message_of(of(group))
        member(fleet, "DELETE", group, bob)
        sender.send(of(group), "after")
        sender.send(receiver.address, "marker")
        assert receiver.message()["body"] == "marker"
        receiver.stays_silent(0.3, ("message",))


# Everybody.


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_all_reaches_everybody_on_both_nodes_and_is_resumed(fleet, alice, bob, encoding):
    with Client.open(fleet.a, alice, encoding) as sender, Client.open(fleet.b, bob, encoding) as receiver:
        sender.stream("all")
        receiver.stream("all")
        sent = sender.send("all", ["hello", alice])
        messages = [client.message_of("all") for client in (sender, receiver)]
        assert messages[0] == messages[1] and messages[0]["body"] == ["hello", alice]
        assert (messages[0]["from"], messages[0]["at"]) == (sender.address, sent["at"]) and sent["ref"]
        sender.send("all", ["typing", alice], ephemeral=True)
        for client in (sender, receiver):
            message = client.message_of("all")
            assert message["body"][0] == "typing" and "seq" not in message
        receiver.vanish()
        for number in range(3):
            sender.send("all", [number, alice])
        with Client.open(fleet.a, bob, encoding, streams={"all": [messages[1]["cursor"]]}) as again:
            assert again.stream("all")["status"] == "resumed"
            assert [message["body"] for message in again.messages_of("all", 3)] == [[n, alice] for n in range(3)]


def test_a_device_goes_on_in_all_where_it_acknowledged_and_a_new_one_starts_now(fleet, alice, bob):
    with Client.open(fleet.a, alice) as sender:
        with Client.open(fleet.b, bob, device="phone") as receiver:
            receiver.stream("all")
            sender.send("all", "first")
            receiver.put({"type": "ack", "of": "all", "cursor": receiver.message_of("all")["cursor"]})
        sender.send("all", "missed")
        with Client.open(fleet.b, bob, device="tablet") as new, Client.open(fleet.a, bob, device="phone") as phone:
            assert new.stream("all")["status"] == "new"
            assert phone.stream("all")["status"] == "resumed"
            assert phone.message_of("all")["body"] == "missed"
            sender.send("all", "both")
            assert [client.message_of("all")["body"] for client in (new, phone)] == ["both", "both"]


# Several connections of one user.


def test_takes_over_closes_the_old_connection_with_1000_and_is_no_change_of_presence(fleet, alice, bob):
    with Client.open(fleet.a, alice) as watcher:
        old = Client.open(fleet.a, bob, device="phone")
        before = watcher.ask({"type": "watch", "users": [bob]})["online"][bob]
        assert before["online"] is True
        with Client.open(fleet.b, bob, device="phone", takes_over=old.welcome["connection"]) as new:
            assert old.goodbye().code == 1000
            watcher.send(new.address, "still here")
            assert new.message()["body"] == "still here"
            watcher.stays_silent(0.5, ("presence_change",))
            now = watcher.ask({"type": "presence", "users": [bob]})["online"][bob]
            assert now["version"] == before["version"] and now["online"] is True


def test_takes_over_of_somebody_elses_connection_does_nothing(fleet, alice, bob):
    with Client.open(fleet.a, alice) as victim:
        with Client.open(fleet.a, bob, takes_over=victim.welcome["connection"]) as other:
            other.send(victim.address, "hello")
            assert victim.message()["body"] == "hello"


def test_exclusive_closes_the_others_of_its_device_with_4004_and_no_other(fleet, alice, bob):
    phone, tablet = Client.open(fleet.a, bob, device="phone"), Client.open(fleet.a, bob, device="tablet")
    beside = Client.open(fleet.b, bob, device="phone")
    with tablet, Client.open(fleet.b, bob, device="phone", exclusive=True) as only, Client.open(fleet.a, alice) as sender:
        for client in (phone, beside):
            goodbye = client.goodbye()
            assert goodbye.code == 4004 and "reconnect_ms" not in goodbye.frame
        sender.send(only.address, "for both")
        assert only.message()["body"] == tablet.message()["body"] == "for both"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_echo_reaches_the_senders_own_devices_and_his_history(fleet, alice, bob, encoding):
    with (
        Client.open(fleet.a, alice, encoding, device="phone") as phone,
        Client.open(fleet.b, alice, encoding, device="laptop") as laptop,
        Client.open(fleet.b, bob, encoding) as receiver,
    ):
        id_ = new_id()
        sent = phone.send(receiver.address, {"text": "hi"}, id_=id_, echo=True)
        got = receiver.message()
        assert (got["to"], got["from"], got["id"], got["at"]) == (receiver.address, phone.address, id_, sent["at"])
        for client in (phone, laptop):
            copy = client.message()
            assert (copy["to"], copy["from"], copy["id"]) == (receiver.address, phone.address, id_)
            assert copy["body"] == {"text": "hi"} and copy["cursor"] and copy["seq"] >= 1
        assert phone.send(receiver.address, {"text": "hi"}, id_=id_, echo=True, retry=True, age_ms=200)["ref"] == sent["ref"]
        page = laptop.ask({"type": "history", "of": laptop.address})
        assert [message["id"] for message in page["messages"]] == [id_], "a retry makes no second copy"
        nothing_else(phone, receiver)


def test_an_ephemeral_message_to_one_device_reaches_that_one_only(fleet, alice, bob):
    with (
        Client.open(fleet.a, alice) as sender,
        Client.open(fleet.b, bob, device="phone") as phone,
        Client.open(fleet.a, bob, device="laptop") as laptop,
    ):
        sender.send(f"user:{bob}/phone", "ring", ephemeral=True)
        assert phone.message()["body"] == "ring"
        sender.send(phone.address, "both")
        assert phone.message()["body"] == laptop.message()["body"] == "both"
        laptop.stays_silent(0.2, ("message",))


# What is asked for wrongly.


def test_bad_requests_about_groups_get_their_exact_answers(fleet, group, alice):
    with Client.open(fleet.a, alice) as client:
        client.join(group)
        long = "g" * 129
        cases = [
            ({"type": "join", "group": long}, "bad_request"),
            ({"type": "leave", "group": long}, "bad_request"),
            ({"type": "members", "group": long}, "bad_request"),
            ({"type": "send", "to": of(long), "body": 1}, "bad_request"),
            ({"type": "join", "group": ""}, "bad_request"),
            ({"type": "join", "group": "a/b"}, "bad_request"),
            ({"type": "join"}, "bad_request"),
            ({"type": "join", "group": 7}, "bad_request"),
            ({"type": "join", "group": group, "until": "tomorrow"}, "bad_request"),
            ({"type": "leave", "group": f"{group}-never"}, "not_found"),
            ({"type": "members", "group": group, "limit": 0}, "bad_request"),
            ({"type": "members", "group": group, "limit": 1_000_000}, "bad_request"),
            ({"type": "send", "to": of(group), "body": 1, "echo": True}, "bad_request"),
            ({"type": "send", "to": "all", "body": 1, "echo": True}, "bad_request"),
        ]
        for frame, code in cases:
            assert client.refused(frame) == code, frame
        client.send(of(group), "nothing of it did anything")
        assert client.message_of(of(group))["body"] == "nothing of it did anything"
        client.send(of("g" * 128), "128 bytes are an ID")


def test_a_join_with_a_cursor_that_cannot_be_read_starts_with_a_reset(fleet, group, alice):
    with Client.open(fleet.a, alice) as client:
        client.send(of(group), "kept")
        client.put({"type": "join", "id": "j", "group": group, "until": "disconnect", "cursor": "nonsense"})
        stream = client.stream(of(group))
        assert (stream["status"], stream["reason"]) == ("reset", "epoch")
        assert client.answer("j")["type"] == "ok"
        # What was stored before a guest came is not for him.
        client.send(of(group), "later")
        assert client.message_of(of(group))["body"] == "later"


def test_the_257th_group_of_a_user_is_forbidden(fleet, group, alice):
    with Client.open(fleet.a, alice) as client:
        for number in range(256):
            client.put({"type": "join", "id": f"j-{number}", "group": f"{group}-{number}"})
        for number in range(256):
            assert client.answer(f"j-{number}")["type"] == "ok"
        assert client.refused({"type": "join", "group": f"{group}-256"}) == "forbidden"
        client.leave(f"{group}-0")
        client.join(f"{group}-256")
    with Client.open(fleet.b, alice) as client:
        assert len(client.welcome["groups"]) == 256 and f"{group}-0" not in client.welcome["groups"]
