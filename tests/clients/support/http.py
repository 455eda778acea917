"""Plain HTTP to one node, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass


@dataclass
class Answer:
    """`status` is 0 when nobody answered at all."""

    status: int
    text: str = ""

    @property
    def json(self):
        return json.loads(self.text)


def request(port: int, method: str, path: str, body=None, key: str | None = None, **headers: str) -> Answer:
    """`body` is sent as JSON, `key` as a bearer token; headers are spelled with underscores."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        sent["Content-Type"] = "application/json"
    if key is not None:
        sent["Authorization"] = f"Bearer {key}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, sent)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException):
        return Answer(0)
    finally:
        connection.close()
