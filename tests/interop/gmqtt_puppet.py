"""Lets the interop tests drive gmqtt; the commands and events are described in puppet.md.

gmqtt makes a Client Identifier up where it is given none, so it cannot ask the broker for one.
"""

import asyncio
import json
import logging
import sys

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from gmqtt.storage import PersistentStorage

from puppet import IS_V5, PORT, REPLY_SECONDS_MAX, payload_of, say, say_message

# What the properties of a message are called in puppet.md and in gmqtt.
NAMES = {
    "expiry": "message_expiry_interval",
    "topic_alias": "topic_alias",
    "response_topic": "response_topic",
    "content_type": "content_type",
}


def gmqtt_properties(described):
    if not IS_V5:
        return {}
    properties = {gmqtt_name: described[name] for name, gmqtt_name in NAMES.items() if name in described}
    if "utf8" in described:
        properties["payload_format_id"] = int(described["utf8"])
    if "correlation_data" in described:
        properties["correlation_data"] = bytes.fromhex(described["correlation_data"])
    if "user" in described:
        properties["user_property"] = [tuple(pair) for pair in described["user"]]
    return properties


def described_properties(properties):
    described = {name: properties[gmqtt_name][0] for name, gmqtt_name in NAMES.items() if gmqtt_name in properties}
    if "payload_format_id" in properties:
        described["utf8"] = properties["payload_format_id"][0] == 1
    if "correlation_data" in properties:
        described["correlation_data"] = properties["correlation_data"][0].hex()
    if "user_property" in properties:
        described["user"] = properties["user_property"]
    if "subscription_identifier" in properties:
        described["subscription_ids"] = properties["subscription_identifier"]
    return described


class Puppet:
    """One gmqtt client; everything runs on one event loop."""

    def __init__(self):
        self.client = None
        self.storage = PersistentStorage()
        self.answers = asyncio.Queue()
        self.disconnecting = False
        self.closed = asyncio.Event()

    async def connect(self, command):
        will = command["will"]
        options = {}
        if IS_V5:
            options["session_expiry_interval"] = command["expiry"]
            options["topic_alias_maximum"] = command["topic_alias_maximum"]
            if command["receive_maximum"]:
                options["receive_maximum"] = command["receive_maximum"]
        client = gmqtt.Client(
            command["id"],
            clean_session=command["clean"],
            persistent_storage=self.storage,
            will_message=will and gmqtt.Message(
                will["topic"], payload_of(will), will["qos"], will["retain"], **gmqtt_properties(will["properties"])
            ),
            **options,
        )
        # With 0 it would connect once more; -1 means without end.
        client.set_config({"reconnect_retries": -2})
        client.on_connect = lambda _c, flags, _rc, _p: self.answers.put_nowait(flags)
        client.on_subscribe = lambda _c, _mid, codes, _p: self.answers.put_nowait(codes[0])
        client.on_unsubscribe = lambda _c, _mid, _codes: self.answers.put_nowait(None)
        client.on_message = self.on_message
        client.on_disconnect = self.on_disconnect
        self.client = client
        await client.connect("127.0.0.1", PORT, keepalive=30, version=MQTTv50 if IS_V5 else MQTTv311)
        return {"session_present": bool(await self.answers.get())}

    async def subscribe(self, command):
        options = {"subscription_identifier": command["id"]} if command["id"] else {}
        self.client.subscribe(command["filter"], qos=command["qos"], **options)
        return {"code": await self.answers.get()}

    async def unsubscribe(self, command):
        self.client.unsubscribe(command["filter"])
        await self.answers.get()
        return {}

    async def publish(self, command):
        self.client.publish(
            command["topic"],
            payload_of(command),
            command["qos"],
            command["retain"],
            **gmqtt_properties(command["properties"]),
        )
        await self.storage.wait_empty()
        return {}

    async def disconnect(self, _command):
        self.disconnecting = True
        await self.client.disconnect()
        await self.closed.wait()
        return {}

    def on_message(self, _client, topic, payload, qos, properties):
        say_message(topic, payload, qos, properties["retain"], described_properties(properties))
        return 0

    def on_disconnect(self, _client, packet, _error=None):
        # gmqtt tells of the DISCONNECT and then of the end of the connection.
        if not self.disconnecting and not self.closed.is_set():
            say({"closed": {"reason": packet[0] if packet else None}})
        self.closed.set()


async def main():
    logging.disable(logging.CRITICAL)
    puppet = Puppet()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        try:
            operation = getattr(puppet, command["op"])(command)
            say({"reply": await asyncio.wait_for(operation, REPLY_SECONDS_MAX)})
        except asyncio.TimeoutError:
            say({"error": f"{command['op']}: no answer from the broker in {REPLY_SECONDS_MAX} s"})
        except Exception as error:  # noqa: BLE001 - the test shows whatever the library raised
            say({"error": f"{command['op']}: {error!r}"})


asyncio.run(main())
