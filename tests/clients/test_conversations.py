"""The past of groups and conversations, counts, read marks and receipts, members and their profiles."""

from __future__ import annotations

import itertools
import time

import pytest

from support.client import ENCODINGS, Client
from support.processes import Node, eventually
from support.tokens import sign

SECRET = "a development secret of more than thirty-two bytes"
_groups = itertools.count(1)


@pytest.fixture
def group() -> str:
    return f"past-{next(_groups)}"


@pytest.fixture(scope="module")
def guarded(fleet):
    """A node on the shared Redis whose users come with tokens, and so with profiles."""
    node = Node("profiles", fleet.redis.url, auth="jwt", environment={"SWITCHBOARD_JWT_SECRET": SECRET})
    node.start()
    yield node.wait_ready()
    node.remove()


def pages(client: Client, limit: int, **asked) -> list[list[dict]]:
    """The whole past, backwards."""
    found, before = [], {}
    while True:
        page = client.ask({"type": "history", "limit": limit, **asked, **before})
        assert page["type"] == "history", page
        found.append(page["messages"])
        if not page["more"]:
            assert "before" not in page
            return found
        before = {"before": page["before"]}


def bodies(messages: list[dict]) -> list:
    return [message["body"] for message in messages]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_history_of_a_group_goes_backwards_page_by_page(fleet, group, alice, bob, encoding):
    with Client.open(fleet.a, alice, encoding) as sender, Client.open(fleet.b, bob, encoding) as reader:
        for client in (sender, reader):
            client.join(group)
        for number in range(25):
            sender.send(f"group:{group}", number)
        live = reader.messages_of(f"group:{group}", 25)
        found = pages(reader, 10, of=f"group:{group}")
        assert [len(page) for page in found] == [10, 10, 5]
        past = [{"type": "message"} | message for page in found for message in page]
        assert past == list(reversed(live))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_history_of_a_conversation_has_both_sides_and_nobody_else(fleet, alice, bob, encoding):
    carol = f"{bob}-carol"
    with (
        Client.open(fleet.a, alice, encoding) as one,
        Client.open(fleet.b, bob, encoding) as two,
        Client.open(fleet.a, carol, encoding) as three,
    ):
        for number in range(6):
            one.send(two.address, f"a{number}", echo=True)
            three.send(two.address, f"c{number}", echo=True)
            two.send(one.address, f"b{number}", echo=True)
        wanted = [f"{side}{number}" for number in reversed(range(6)) for side in "ba"]
        for client, other in ((one, two), (two, one)):
            found = pages(client, 5, of=client.address, **{"with": other.address})
            assert [body for page in found for body in bodies(page)] == wanted
        whole = [body for page in pages(two, 7, of=two.address) for body in bodies(page)]
        assert whole == [f"{side}{number}" for number in reversed(range(6)) for side in "bca"]
        nobody = pages(two, 5, of=two.address, **{"with": f"user:{bob}-nobody"})
        assert nobody == [[]]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_counts_are_by_sender_and_unread_is_what_others_wrote_behind_the_read_mark(fleet, group, alice, bob, encoding):
    of = f"group:{group}"
    with Client.open(fleet.a, alice, encoding) as one, Client.open(fleet.b, bob, encoding) as two:
        for client in (one, two):
            client.join(group)
        for number in range(5):
            one.send(of, number)
        two.send(of, "answer")
        one.send(of, "last")
        heard = two.messages_of(of, 7)
        counts = two.ask({"type": "counts", "of": of})
        assert (counts["total"], counts["by"], counts["unread"]) == (7, {alice: 6, bob: 1}, 6)
        assert one.ask({"type": "counts", "of": of})["unread"] == 1
        two.ask({"type": "read", "of": of, "cursor": heard[2]["cursor"]})
        assert two.ask({"type": "counts", "of": of})["unread"] == 3
        two.ask({"type": "read", "of": of, "cursor": heard[-1]["cursor"]})
        assert two.ask({"type": "counts", "of": of})["unread"] == 0
        assert one.ask({"type": "counts", "of": of})["unread"] == 1, "everybody has a mark of his own"


def test_read_marks_of_a_conversation_reach_the_other_side_and_the_own_devices(fleet, alice, bob):
    carol = f"{bob}-carol"
    with (
        Client.open(fleet.a, alice) as one,
        Client.open(fleet.b, bob, device="phone") as phone,
        Client.open(fleet.a, bob, device="laptop") as laptop,
        Client.open(fleet.a, carol) as three,
    ):
        for number in range(3):
            one.send(phone.address, number)
            three.send(phone.address, number)
        heard = phone.messages(6)
        mine = {"of": phone.address, "with": one.address}
        counts = phone.ask({"type": "counts", **mine})
        assert (counts["total"], counts["by"], counts["unread"]) == (3, {alice: 3}, 3)
        assert phone.ask({"type": "counts", "of": phone.address})["total"] == 6
        cursor = [message for message in heard if message["from"] == one.address][1]["cursor"]
        phone.put({"type": "read", **mine, "cursor": cursor})
        for client in (one, laptop):
            change = client.change("read_change")
            assert (change["user"], change["cursor"]) == (bob, cursor), change
        assert laptop.ask({"type": "counts", **mine})["unread"] == 1
        others = laptop.ask({"type": "counts", "of": phone.address, "with": three.address})
        assert others["unread"] == 3, "the mark of one conversation is none of another"
        three.stays_silent(0.2, ("read_change",))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_receipts_say_which_devices_have_a_message_and_who_has_read_it(fleet, alice, bob, encoding):
    with Client.open(fleet.a, alice, encoding) as sender, Client.open(fleet.b, bob, encoding, device="phone") as receiver:
        refs = [sender.send(receiver.address, number)["ref"] for number in range(2)]
        heard = receiver.messages(2)

        def receipts(number: int) -> dict:
            answer = sender.ask({"type": "receipts", "ref": refs[number]})
            assert answer["type"] == "receipts", answer
            return answer

        assert (receipts(0)["delivered"], receipts(0)["read"]) == ({}, [])
        receiver.put({"type": "ack", "of": receiver.address, "cursor": heard[0]["cursor"]})
        eventually("the device's place is stored", lambda: receipts(0)["delivered"] == {bob: ["phone"]}, 5)
        assert receipts(1)["delivered"] == {}
        receiver.ask({"type": "read", "of": receiver.address, "cursor": heard[1]["cursor"]})
        assert [receipts(number)["read"] for number in range(2)] == [[bob], [bob]]
        assert receiver.refused({"type": "receipts", "ref": refs[0]}) in ("forbidden", "not_found"), "not his message"


def test_receipts_of_a_group_name_its_members(fleet, group, alice, bob):
    of = f"group:{group}"
    with (
        Client.open(fleet.a, alice, device="desk") as sender,
        Client.open(fleet.b, bob, device="phone") as receiver,
        Client.open(fleet.a, f"{bob}-carol", device="tablet") as silent,
    ):
        for client in (sender, receiver, silent):
            client.join(group)
        ref = sender.send(of, "seen?")["ref"]
        cursor = receiver.message_of(of)["cursor"]
        receiver.put({"type": "ack", "of": of, "cursor": cursor})

        def receipts() -> dict:
            return sender.ask({"type": "receipts", "ref": ref})

        eventually("the device's place is stored", lambda: receipts()["delivered"] == {bob: ["phone"]}, 5)
        assert receipts()["read"] == []
        receiver.ask({"type": "read", "of": of, "cursor": cursor})
        assert receipts()["read"] == [bob]


def test_members_come_page_by_page_with_the_profiles_of_their_tokens(fleet, guarded, group, alice, bob):
    profile = {"name": "Älice", "tags": [1, {"deep": None}]}
    token = sign(SECRET, {"sub": alice, "exp": int(time.time()) + 600, "profile": profile})
    others = [f"{bob}-{number}" for number in range(7)]
    for user in (alice, *others):
        assert fleet.a.internal("PUT", f"/v1/groups/{group}/members/{user}").status == 200
    with Client.open(guarded, alice, token=token) as client:
        assert client.welcome["groups"] == [group]
        found, after = {}, {}
        while True:
            page = client.ask({"type": "members", "group": group, "limit": 3, **after})
            assert page["type"] == "members" and len(page["members"]) <= 3 and page["total"] == 8, page
            found |= {one["user"]: one.get("profile") for one in page["members"]}
            if not page["more"]:
                break
            after = {"after": page["after"]}
        assert found == {alice: profile} | {user: None for user in others}
        assert client.ask({"type": "presence", "group": group})["online"][alice]["profile"] == profile
    listed = fleet.b.internal("GET", f"/v1/groups/{group}/members").json
    assert {one["user"] for one in listed["members"]} == {alice, *others}


# What is asked for wrongly.


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_read_mark_goes_neither_back_nor_past_the_end(fleet, alice, bob, encoding):
    with Client.open(fleet.a, alice, encoding) as sender, Client.open(fleet.b, bob, encoding) as reader:
        for number in range(3):
            sender.send(reader.address, number)
        cursors = [message["cursor"] for message in reader.messages(3)]
        mine = {"type": "read", "of": reader.address}
        assert reader.ask({**mine, "cursor": cursors[1]})["type"] == "ok"
        reader.put({**mine, "cursor": cursors[0]})
        stands = reader.change("read_change", user=bob, cursor=cursors[1])
        assert stands["of"] == reader.address
        assert reader.ask({"type": "counts", "of": reader.address})["unread"] == 1, "nothing changed"
        sender.send(sender.address, "to myself")
        other = sender.message()["cursor"]
        assert reader.refused({**mine, "cursor": other}) == "bad_request", "a place of another stream"
        assert reader.refused({**mine, "cursor": "nonsense"}) == "bad_request"
        assert reader.refused({**mine}) == "bad_request"
        assert reader.ask({"type": "counts", "of": reader.address})["unread"] == 1


def test_bad_requests_about_the_past_get_their_exact_answers(fleet, group, alice, bob):
    of = f"group:{group}"
    with Client.open(fleet.a, alice) as client, Client.open(fleet.b, bob) as other:
        client.join(group)
        ref = client.send(of, 1)["ref"]
        in_group = client.message_of(of)["cursor"]
        other.send(client.address, 2)
        in_inbox = client.message()["cursor"]
        history = {"type": "history", "of": client.address}
        cases = [
            ({**history, "before": in_group}, "bad_request"),
            ({"type": "history", "of": of, "before": in_inbox}, "bad_request"),
            ({**history, "before": "nonsense"}, "bad_request"),
            ({**history, "before": 7}, "bad_request"),
            ({**history, "limit": 0}, "bad_request"),
            ({**history, "limit": 1_000_000}, "bad_request"),
            ({**history, "limit": -1}, "bad_request"),
            ({**history, "with": bob}, "bad_request"),
            ({**history, "with": of}, "bad_request"),
            ({"type": "history", "of": of, "with": other.address}, "bad_request"),
            ({"type": "history", "of": other.address}, "forbidden"),
            ({"type": "counts"}, "bad_request"),
            ({"type": "counts", "of": other.address}, "forbidden"),
            ({"type": "read", "of": other.address, "cursor": in_inbox}, "forbidden"),
            ({"type": "receipts", "ref": "nonsense"}, "bad_request"),
            ({"type": "receipts", "ref": in_group}, "bad_request"),
            ({"type": "receipts"}, "bad_request"),
        ]
        for frame, code in cases:
            assert client.refused(frame) == code, frame
        assert client.ask({"type": "receipts", "ref": ref})["type"] == "receipts"
