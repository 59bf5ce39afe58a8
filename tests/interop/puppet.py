"""What the puppets in Python share: lines in and out, and payloads; puppet.md describes the commands and events."""

import itertools
import json
import pathlib
import sys

REPLY_SECONDS_MAX = 30
INLINE_BYTES_MAX = 64 * 1024

PORT = int(sys.argv[1])
IS_V5 = sys.argv[2] == "5"
DIRECTORY = pathlib.Path(sys.argv[3])
IS_WEBSOCKET = sys.argv[4] in ("websocket", "secure-websocket")
# The authority of the broker's certificate, over TLS.
CA_FILE = sys.argv[5] if sys.argv[4] in ("tls", "secure-websocket") else None

numbers = itertools.count()


def say(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def payload_of(message):
    if "payload_file" in message:
        return pathlib.Path(message["payload_file"]).read_bytes()
    return bytes.fromhex(message["payload"])


def say_message(topic, payload, qos, retain, properties):
    message = {"topic": topic, "qos": qos, "retain": bool(retain), "properties": properties}
    if len(payload) <= INLINE_BYTES_MAX:
        message["payload"] = payload.hex()
    else:
        file = DIRECTORY / f"received{next(numbers)}"
        file.write_bytes(payload)
        message["payload_file"] = str(file)
    say({"message": message})
