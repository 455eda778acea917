#!/usr/bin/env python3
"""Cuts a history down to some recipients, so that it says of them what the whole one said.

cut.py HISTORY BYTES NAME... > SHORTER

A name is the number of a user, `group:fN`, `all`, or `presence`, for visitors and watchers. Everything about those that are
named is kept: messages to them, their sessions, their logs; and what is nobody's, such as faults and who is in which group.
What belongs to two is kept if both are: a member's part of a group's stream, for example. If there is room within BYTES,
users that are not named follow in order, so that the history has some to whom nothing happened; one that begins with a minus
is left out.
"""

import json
import sys


def main():
    path, room, names = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    left_out = {int(name[1:]) for name in names if name.startswith("-")}
    kept = {int(name) if name.isdigit() else name for name in names if not name.startswith("-")}
    lines = open(path, encoding="utf-8").read().splitlines(keepends=True)
    of_message, of_session, owners = {}, {}, []
    for line in lines:
        event = json.loads(line)
        number = event.get("message") and (event["message"]["sender"], event["message"]["count"])
        if event["op"] == "invoke":
            of_message[number] = event["recipient"]
        elif event["op"] == "attached":
            of_session[event["session"]] = event["recipient"]
        if event["op"] in ("watches", "told", "here"):
            owners.append({"presence"})
            continue
        # What a frame says, and whose the session is, may differ: then it belongs to the session.
        session = of_session.get(event.get("session"))
        of = event.get("of") or event.get("to") or of_message.get(number)
        of = session if session is not None and isinstance(of, int) else of
        owners.append({event.get("recipient"), event.get("user"), session, of} - {None})
    sizes = {}
    for line, who in zip(lines, owners):
        if len(who) == 1:
            sizes[next(iter(who))] = sizes.get(next(iter(who)), 0) + len(line)
    size = sum(len(line) for line, who in zip(lines, owners) if who <= kept)
    for user in sorted(name for name in sizes if isinstance(name, int) and name not in kept | left_out):
        if size + sizes[user] > room:
            break
        kept.add(user)
        size += sizes[user]
    sys.stdout.writelines(line for line, who in zip(lines, owners) if who <= kept)


if __name__ == "__main__":
    main()
