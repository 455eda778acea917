"""Who is there: told with a version that only grows, right after crashes, and silent about short reconnects."""

from __future__ import annotations

import json
import time

import pytest

from support.client import ENCODINGS, Client, encode, new_id
from support.processes import Fleet

# How long these nodes hold an offline back; the default of 5 s would make every test wait.
DELAY_S = 1.0


@pytest.fixture(scope="module")
def quick():
    """Two nodes that wait less before they say that somebody went."""
    fleet = Fleet.start("--rate-limit", "off", "--presence-delay", f"{int(DELAY_S * 1000)}ms", prefix="quick-")
    yield fleet
    fleet.remove()


def watch(client: Client, *users: str) -> dict:
    answer = client.ask({"type": "watch", "users": list(users)})
    assert answer["type"] == "ok", answer
    return answer["online"]


def presence(client: Client, user: str) -> dict:
    return client.ask({"type": "presence", "users": [user]})["online"][user]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_who_is_watched_is_told_from_the_other_node_with_growing_versions(quick, alice, bob, encoding):
    with Client.open(quick.a, alice, encoding) as watcher:
        start = watch(watcher, bob)[bob]
        assert (start["version"], start["online"], start["devices"]) == (0, False, [])
        versions = [0]
        for _ in range(2):
            with Client.open(quick.b, bob, encoding, device="phone") as client:
                came = watcher.change("presence_change", user=bob)
                assert came["online"] is True and abs(came["at"] / 1000 - time.time()) < 60
                now = presence(watcher, bob)
                assert (now["online"], now["version"]) == (True, came["version"])
                assert [device["device"] for device in now["devices"]] == ["phone"]
                assert abs(now["devices"][0]["since"] / 1000 - time.time()) < 60
                with Client.open(quick.a, bob, encoding, device="laptop"):
                    devices = presence(watcher, bob)["devices"]
                    assert sorted(device["device"] for device in devices) == ["laptop", "phone"]
                    client.close()
                    watcher.stays_silent(DELAY_S + 0.5, ("presence_change",))
            went = watcher.change("presence_change", user=bob)
            assert went["online"] is False
            versions += [came["version"], went["version"]]
            assert presence(watcher, bob)["devices"] == []
        assert versions == sorted(set(versions)), "a version only grows"
        assert watcher.ask({"type": "unwatch", "users": [bob]})["type"] == "ok"
        with Client.open(quick.b, bob, encoding):
            watcher.stays_silent(0.5, ("presence_change",))


def test_a_reconnect_within_the_delay_is_no_change(fleet, alice, bob):
    """With the default of five seconds, on both ways: to the same node, and to the other one."""
    with Client.open(fleet.a, alice) as watcher:
        client = Client.open(fleet.a, bob, device="phone")
        before = watch(watcher, bob)[bob]
        for place in (fleet.a, fleet.b):
            client.vanish()
            time.sleep(0.7)
            client = Client.open(place, bob, device="phone")
        with client:
            # Longer than what the node of the first connections holds back.
            watcher.stays_silent(5.5, ("presence_change",))
            assert presence(watcher, bob)["version"] == before["version"]


def test_a_group_is_watched_and_asked_about(quick, alice, bob):
    group, carol = f"watched-{bob}", f"{bob}-carol"
    with Client.open(quick.a, alice) as watcher, Client.open(quick.b, bob) as present:
        for client in (watcher, present):
            client.join(group)
        with Client.open(quick.b, carol) as away:
            away.join(group)
        watcher.change("member_change", user=carol)
        answer = watcher.ask({"type": "watch", "group": group})
        assert set(answer["online"]) == {alice, bob, carol}
        assert answer["online"][alice]["online"] and answer["online"][bob]["online"]
        # Carol's connection has ended, and is held back for a moment.
        if answer["online"][carol]["online"]:
            assert watcher.change("presence_change", user=carol)["online"] is False
        with Client.open(quick.b, carol):
            assert watcher.change("presence_change", user=carol)["online"] is True
            online = watcher.ask({"type": "presence", "group": group})["online"]
            assert all(online[user]["online"] for user in (alice, bob, carol))
        assert watcher.ask({"type": "unwatch", "group": group})["type"] == "ok"


def test_sent_says_whether_the_recipient_is_there(quick, alice, bob):
    with Client.open(quick.a, alice) as sender:
        assert sender.send(f"user:{bob}", 1)["online"] is False
        with Client.open(quick.b, bob):
            assert sender.send(f"user:{bob}", 2)["online"] is True


def test_after_kill_9_of_a_node_its_users_are_offline_within_20_s_and_others_are_not(start_fleet, alice, bob):
    """Who is on both nodes stays; whoever comes back on the other node in time was never away."""
    fleet = start_fleet("--rate-limit", "off", "--presence-delay", "1s")
    stays, returns, group = f"{bob}-stays", f"{bob}-returns", "survives"
    with Client.open(fleet.a, alice) as watcher, Client.open(fleet.a, stays, device="laptop"):
        watcher.join(group)
        lost = [Client.open(fleet.b, user, device="phone") for user in (bob, stays, returns)]
        lost[2].join(group)
        watcher.send(f"group:{group}", "before")
        cursor = lost[2].message_of(f"group:{group}")["cursor"]
        start = watch(watcher, bob, stays, returns)
        assert all(one["online"] for one in start.values())
        fleet.b.kill()
        begun = time.monotonic()
        watcher.send(f"group:{group}", "while he is away")
        with Client.open(fleet.a, returns, device="phone", streams={f"group:{group}": [cursor]}) as back:
            assert back.message_of(f"group:{group}")["body"] == "while he is away"
            went = watcher.change("presence_change", user=bob, timeout=25)
            took = time.monotonic() - begun
            assert went["online"] is False and went["version"] > start[bob]["version"]
            assert took < 20, f"{took:.1f} s"
            watcher.stays_silent(1, ("presence_change",))
            for user in (stays, returns):
                assert presence(watcher, user)["online"] is True


# What is asked for wrongly.


def refused(client: Client, frame: dict) -> str:
    """As `Client.refused`, for a frame that is near the bound: without blanks."""
    id_ = new_id("q")
    frame = {"id": id_, **frame}
    packed = encode(frame, client.encoding)
    client.socket.send(json.dumps(frame, separators=(",", ":")) if client.encoding == "json" else packed)
    answer = client.answer(id_)
    assert answer["type"] == "error" and answer["message"], answer
    return answer["code"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bad_requests_about_presence_get_their_exact_answers(fleet, alice, encoding):
    with Client.open(fleet.a, alice, encoding) as client:
        unknown = presence(client, f"{alice}-unknown")
        assert (unknown["version"], unknown["online"], unknown["devices"]) == (0, False, [])
        letters = "0123456789abcdefghijklmnopqrstuvwxyz"
        many = [a + b + c for a in letters for b in letters for c in letters][:10_000]
        for type_ in ("presence", "watch", "unwatch"):
            assert refused(client, {"type": type_, "users": many}) == "bad_request"
            assert client.refused({"type": type_, "users": many[:1_001]}) == "bad_request"
            assert client.refused({"type": type_, "users": []}) == "bad_request"
            assert client.refused({"type": type_}) == "bad_request"
            assert client.refused({"type": type_, "users": ["a"], "group": "g"}) == "bad_request"
            assert client.refused({"type": type_, "users": "alice"}) == "bad_request"
            assert client.refused({"type": type_, "users": ["a/b"]}) == "bad_request"
            assert client.refused({"type": type_, "group": "g" * 129}) == "bad_request"
        assert len(client.ask({"type": "watch", "users": many[:1_000]})["online"]) == 1_000
        more = client.ask({"type": "watch", "users": [alice]})
        assert more["type"] == "error", "1,000 are all that one connection may watch"
        assert client.ask({"type": "unwatch", "users": many[:1_000]})["type"] == "ok"
