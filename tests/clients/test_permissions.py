"""Who may send, join and look: by the node's settings, and by what a token says."""

from __future__ import annotations

import itertools
import time

import pytest

from support.client import Client
from support.processes import Node
from support.tokens import sign

SECRET = "a development secret of more than thirty-two bytes"
_groups = itertools.count(1)


@pytest.fixture
def group() -> str:
    return f"guarded-{next(_groups)}"


def guarded_node(fleet, name: str, *flags: str):
    node = Node(name, fleet.redis.url, *flags, auth="jwt", environment={"SWITCHBOARD_JWT_SECRET": SECRET})
    node.start()
    yield node.wait_ready()
    node.remove()


@pytest.fixture(scope="module")
def guarded(fleet):
    """A node on the shared Redis with the default rights."""
    yield from guarded_node(fleet, "strict")


@pytest.fixture(scope="module")
def open_door(fleet):
    """A node whose operator lets everybody join some groups, and look at some users."""
    flags = ("--can-send", "user:*,own,all", "--can-join", "group:open-*", "--can-look", "own,user:clerk-*")
    yield from guarded_node(fleet, "open", *flags)


def enter(node: Node, user: str, **claims) -> Client:
    hello = {name: claims.pop(name) for name in ("streams", "device") if name in claims}
    token = sign(SECRET, {"sub": user, "exp": int(time.time()) + 600, **claims})
    return Client.open(node, user, token=token, **hello)


def put(fleet, group: str, user: str) -> None:
    assert fleet.a.internal("PUT", f"/v1/groups/{group}/members/{user}").status == 200


def test_by_default_a_user_writes_to_users_and_own_groups_and_joins_nothing(fleet, guarded, group, alice, bob):
    with Client.open(fleet.a, bob) as inside:
        inside.join(group)
        with enter(guarded, alice) as client:
            client.send(inside.address, "users may write to each other")
            assert inside.message_of(inside.address)["from"] == client.address
            cursor = inside.send(f"group:{group}", 1) and inside.message_of(f"group:{group}")["cursor"]
            for frame in (
                {"type": "join", "group": group},
                {"type": "join", "group": group, "until": "disconnect"},
                {"type": "join", "group": group, "until": "disconnect", "cursor": cursor},
                {"type": "send", "to": f"group:{group}", "body": 1},
                {"type": "send", "to": f"group:{group}", "body": 1, "ephemeral": True},
                {"type": "send", "to": "all", "body": 1},
                {"type": "history", "of": f"group:{group}"},
                {"type": "counts", "of": f"group:{group}"},
                {"type": "read", "of": f"group:{group}", "cursor": cursor},
                {"type": "members", "group": group},
                {"type": "presence", "group": group},
                {"type": "watch", "group": group},
            ):
                assert client.refused(frame) == "forbidden", frame
            inside.stays_silent(0.2, ("message", "member_change"))
        with enter(guarded, alice, streams={f"group:{group}": [cursor]}) as client:
            error = client.of_type("error")
            assert error["code"] == "forbidden", "a stream that is not his is left out"
            assert client.ping()["type"] == "pong"


def test_whom_a_back_end_lets_in_may_write_look_and_see_the_past_from_then_on(fleet, guarded, group, alice, bob):
    of = f"group:{group}"
    with Client.open(fleet.a, bob) as inside:
        inside.join(group)
        inside.send(of, "before his time")
        with enter(guarded, alice) as client:
            put(fleet, group, alice)
            client.stream(of)
            client.send(of, "in")
            assert client.message_of(of)["body"] == "in"
            past = client.ask({"type": "history", "of": of})
            assert [message["body"] for message in past["messages"]] == ["in"] and past["more"] is False
            assert client.ask({"type": "members", "group": group})["total"] == 2
            assert client.ask({"type": "presence", "group": group})["online"][bob]["online"] is True
            shared = client.ask({"type": "presence", "users": [bob]})["online"][bob]
            assert shared["online"] is True, "who shares a group may be looked at"
            assert fleet.a.internal("DELETE", f"/v1/groups/{group}/members/{alice}").status == 200
            client.change("member_change", user=alice, joined=False)
            assert client.refused({"type": "send", "to": of, "body": "out"}) == "forbidden"
            assert client.refused({"type": "history", "of": of}) == "forbidden"


def test_users_who_share_no_group_are_not_looked_at(fleet, guarded, alice, bob):
    with Client.open(fleet.a, bob), enter(guarded, alice) as client:
        for type_ in ("presence", "watch"):
            answer = client.ask({"type": type_, "users": [bob]})
            assert answer.get("code") == "forbidden", answer
        assert "online" not in client.send(f"user:{bob}", 1), "`sent` does not tell either"


def test_the_groups_of_a_token_are_joined_for_the_life_of_the_connection(fleet, guarded, group, alice, bob):
    of = f"group:{group}"
    with Client.open(fleet.a, bob) as inside:
        inside.join(group)
        with enter(guarded, alice, groups=[group]) as client:
            assert client.stream(of)["status"] == "new"
            inside.send(of, "for all")
            assert client.message_of(of)["body"] == "for all"
            client.send(of, "from a guest")
            cursor = client.message_of(of)["cursor"]
            assert [one["user"] for one in inside.ask({"type": "members", "group": group})["members"]] == [bob]
        inside.send(of, "meanwhile")
        with enter(guarded, alice, groups=[group], streams={of: [cursor]}) as client:
            assert client.stream(of)["status"] == "resumed"
            assert client.message_of(of)["body"] == "meanwhile"


def test_a_token_that_says_what_its_user_can_allows_exactly_that(fleet, guarded, group, alice, bob):
    can = {"send": [f"group:{group}-*", f"user:{bob}"], "join": [f"group:{group}-open*"], "look": [f"group:{group}-open"]}
    with enter(guarded, alice, can=can) as client, Client.open(fleet.a, bob) as other:
        client.join(f"{group}-open")
        client.join(f"{group}-open-too", until="disconnect")
        client.send(f"group:{group}-news", "write only")
        client.send(other.address, "to bob")
        client.ask({"type": "members", "group": f"{group}-open"})["total"]
        for frame in (
            {"type": "join", "group": f"{group}-news"},
            {"type": "send", "to": f"user:{bob}-other", "body": 1},
            {"type": "send", "to": "all", "body": 1},
            {"type": "history", "of": f"group:{group}-news"},
            {"type": "members", "group": f"{group}-news"},
            {"type": "presence", "users": [bob]},
        ):
            assert client.refused(frame) == "forbidden", frame
        assert client.ask({"type": "history", "of": client.address})["type"] == "history", "the own inbox is his"
    with enter(guarded, alice, can={}) as client:
        assert client.refused({"type": "send", "to": f"user:{bob}", "body": 1}) == "forbidden"


def test_an_operator_says_what_tokens_without_a_word_of_it_allow(fleet, open_door, group, alice, bob):
    with enter(open_door, alice) as client:
        client.join(f"open-{group}")
        client.send(f"group:open-{group}", "hello")
        assert client.message_of(f"group:open-{group}")["body"] == "hello"
        client.send("all", "for everybody")
        assert client.refused({"type": "join", "group": group}) == "forbidden"
        clerk = f"clerk-{bob}"
        assert client.ask({"type": "presence", "users": [clerk]})["online"][clerk]["version"] == 0
        assert client.refused({"type": "presence", "users": [bob]}) == "forbidden"
