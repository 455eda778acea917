"""Tokens made by hand (RFC 7519, HS256), so that a server that only likes its own tokens is found out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(secret: str, claims: dict, algorithm: str = "HS256") -> str:
    """`algorithm` other than HS256 gives a token without a signature, as an attacker would send it."""
    head = _text(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    signed = f"{head}.{_text(json.dumps(claims).encode())}"
    if algorithm != "HS256":
        return signed + "."
    return f"{signed}.{_text(hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest())}"
