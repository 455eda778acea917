#!/usr/bin/env python3
"""Cuts a history down to some recipients, so that it says of them what the whole one said.

cut.py HISTORY BYTES RECIPIENT... > SHORTER

Everything about the recipients named is kept: messages to them, their sessions, their logs; and what is nobody's, such as
faults. If there is room within BYTES, recipients that are not named follow in order, so that the history has some to whom
nothing happened; one that begins with a minus is left out.
"""

import json
import sys


def main():
    path, room, names = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    named = [int(name) for name in names if not name.startswith("-")]
    left_out = {int(name[1:]) for name in names if name.startswith("-")}
    lines = open(path, encoding="utf-8").read().splitlines(keepends=True)
    of_message, of_session, whose = {}, {}, []
    for line in lines:
        event = json.loads(line)
        number = event.get("message") and (event["message"]["sender"], event["message"]["count"])
        if event["op"] == "invoke":
            of_message[number] = event["recipient"]
        elif event["op"] == "attached":
            of_session[event["session"]] = event["recipient"]
        recipient = event.get("recipient")
        if recipient is None and "session" in event:
            recipient = of_session.get(event["session"])
        if recipient is None and number:
            recipient = of_message.get(number)
        whose.append(recipient)
    sizes = {}
    for line, recipient in zip(lines, whose):
        sizes[recipient] = sizes.get(recipient, 0) + len(line)
    kept = {None, *named}
    size = sum(sizes.get(recipient, 0) for recipient in kept)
    for recipient in sorted(set(sizes) - kept - left_out):
        if size + sizes[recipient] > room:
            break
        kept.add(recipient)
        size += sizes[recipient]
    sys.stdout.writelines(line for line, recipient in zip(lines, whose) if recipient in kept)


if __name__ == "__main__":
    main()
