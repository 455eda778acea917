"""`--auth jwt`: who may come in, and how the others hear that they may not.

Bad credentials are never refused at the upgrade, because browsers and mini-programs cannot see why one failed.
"""

from __future__ import annotations

import time

import pytest

from support.client import ENCODINGS, Client, Refused
from support.processes import Node
from support.tokens import sign

SECRET = "a development secret of more than thirty-two bytes"


@pytest.fixture(scope="module")
def guarded(fleet):
    """A third node on the shared Redis, which asks for tokens."""
    node = Node("guarded", fleet.redis.url, auth="jwt", environment={"SWITCHBOARD_JWT_SECRET": SECRET})
    node.start()
    yield node.wait_ready()
    node.remove()


def claims(user: str, lifetime_s: int = 600, **more) -> dict:
    return {"sub": user, "exp": int(time.time()) + lifetime_s, **more}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_token_of_the_token_command_opens_the_door(guarded, fleet, switchboard, alice, bob, encoding):
    token = switchboard("token", "--user", alice, SWITCHBOARD_JWT_SECRET=SECRET).strip()
    with Client.open(fleet.b, bob, encoding) as receiver:
        with Client.open(guarded, alice, encoding, token=token) as sender:
            sender.send(receiver.address, "let in")
            assert receiver.message()["from"] == f"user:{alice}"


def test_a_token_may_come_in_a_header_in_the_address_or_in_hello(guarded, alice):
    token = sign(SECRET, claims(alice))
    ways = [
        Client.open(guarded, alice, query="", headers={"Authorization": f"Bearer {token}"}),
        Client.open(guarded, alice, query=f"?token={token}"),
        Client.open(guarded, alice, token=token),
    ]
    for client in ways:
        with client:
            assert client.welcome["user"] == alice
            assert client.ping()["type"] == "pong"


def test_a_token_can_name_the_device(guarded, switchboard, alice):
    token = switchboard("token", "--user", alice, "--device", "phone", "--ttl", "1h", SWITCHBOARD_JWT_SECRET=SECRET)
    with Client.open(guarded, alice, token=token.strip()) as client:
        assert client.welcome["device"] == "phone"


def bad_tokens(user: str) -> dict[str, str]:
    good = sign(SECRET, claims(user))
    head, body, signature = good.split(".")
    return {
        "no token at all": "nonsense",
        "another secret": sign("another secret that is just as long as ours", claims(user)),
        "no signature": sign(SECRET, claims(user), algorithm="none"),
        "a signature of something else": f"{head}.{sign(SECRET, claims('admin')).split('.')[1]}.{signature}",
        "no user": sign(SECRET, {"exp": int(time.time()) + 600}),
        "no end": sign(SECRET, {"sub": user}),
        "not valid yet": sign(SECRET, claims(user, nbf=int(time.time()) + 3_600)),
        "a user that is no ID": sign(SECRET, claims("a/b")),
    }


@pytest.mark.parametrize("what", bad_tokens("x"))
@pytest.mark.parametrize("way", ["hello", "address"])
def test_a_bad_token_is_upgraded_then_told_bye_4001(guarded, alice, what, way):
    token = bad_tokens(alice)[what]
    with pytest.raises(Refused) as refused:
        if way == "hello":
            Client.open(guarded, alice, token=token)
        else:
            Client.open(guarded, alice, query=f"?token={token}")
    goodbye = refused.value.goodbye
    assert goodbye.code == 4001
    assert goodbye.frame is not None and goodbye.frame["code"] == 4001
    assert token not in str(goodbye.frame) + guarded.said(), "a credential is never shown"


def test_an_expired_token_is_told_bye_4002(guarded, alice):
    """A code of its own: the client fetches a new token and comes back, where 4001 means stop."""
    with pytest.raises(Refused) as refused:
        Client.open(guarded, alice, token=sign(SECRET, claims(alice, lifetime_s=-3_600)))
    assert (refused.value.goodbye.code, refused.value.goodbye.frame["code"]) == (4002, 4002)


def test_a_hello_without_any_credential_is_told_bye_4001(guarded, alice):
    """`?user=` is a credential of `--auth none` only."""
    with pytest.raises(Refused) as refused:
        Client.open(guarded, alice, query=f"?user={alice}")
    assert refused.value.goodbye.code == 4001


def test_what_a_sender_claims_to_be_is_ignored(guarded, fleet, alice, bob):
    with Client.open(fleet.b, bob) as receiver:
        with Client.open(guarded, alice, token=sign(SECRET, claims(alice))) as sender:
            sender.put({"type": "send", "id": "f", "to": receiver.address, "body": 1, "from": "user:admin"})
            sender.answer("f")
            assert receiver.message()["from"] == sender.address
