"""Lets the interop tests drive paho-mqtt; the commands and events are described in puppet.md."""

import json
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from puppet import CA_FILE, IS_V5, IS_WEBSOCKET, PORT, REPLY_SECONDS_MAX, payload_of, say, say_message

# What the properties of a message are called in puppet.md and in paho.
NAMES = {
    "expiry": "MessageExpiryInterval",
    "topic_alias": "TopicAlias",
    "response_topic": "ResponseTopic",
    "content_type": "ContentType",
    "user": "UserProperty",
    "subscription_ids": "SubscriptionIdentifier",
}


def paho_properties(packet_type, described):
    if not IS_V5:
        return None
    properties = Properties(packet_type)
    for name, value in described.items():
        if name == "utf8":
            properties.PayloadFormatIndicator = int(value)
        elif name == "correlation_data":
            properties.CorrelationData = bytes.fromhex(value)
        elif name == "user":
            properties.UserProperty = [tuple(pair) for pair in value]
        else:
            setattr(properties, NAMES[name], value)
    return properties


def described_properties(properties):
    if properties is None:
        return {}
    described = {name: getattr(properties, paho) for name, paho in NAMES.items() if hasattr(properties, paho)}
    if hasattr(properties, "PayloadFormatIndicator"):
        described["utf8"] = properties.PayloadFormatIndicator == 1
    if hasattr(properties, "CorrelationData"):
        described["correlation_data"] = properties.CorrelationData.hex()
    return described


class Puppet:
    """One paho client: callbacks run on paho's network thread and hand results over in `results`."""

    def __init__(self):
        self.results = queue.Queue()
        self.client = None
        self.disconnecting = False
        self.topics = {}

    def wait(self, kind):
        while True:
            got, value = self.results.get(timeout=REPLY_SECONDS_MAX)
            if got == kind:
                return value

    def connect(self, command):
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=command["id"],
            clean_session=None if IS_V5 else command["clean"],
            protocol=mqtt.MQTTv5 if IS_V5 else mqtt.MQTTv311,
            transport="websockets" if IS_WEBSOCKET else "tcp",
            reconnect_on_failure=False,
        )
        if CA_FILE is not None:
            client.tls_set(ca_certs=CA_FILE)
        client.on_connect = lambda _c, _u, flags, reason, all: self.results.put(("connack", (flags, reason, all)))
        client.on_subscribe = lambda _c, _u, _mid, reasons, _p: self.results.put(("suback", reasons[0].value))
        client.on_unsubscribe = lambda _c, _u, _mid, _reasons, _p: self.results.put(("unsuback", None))
        client.on_publish = lambda _c, _u, mid, reason, _p: self.results.put(("published", (mid, reason.value)))
        client.on_message = self.on_message
        client.on_disconnect = self.on_disconnect
        if command["will"]:
            will = command["will"]
            properties = paho_properties(PacketTypes.WILLMESSAGE, will["properties"])
            client.will_set(will["topic"], payload_of(will), will["qos"], will["retain"], properties)
        options = {}
        if IS_V5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = command["expiry"]
            if command["receive_maximum"]:
                properties.ReceiveMaximum = command["receive_maximum"]
            properties.TopicAliasMaximum = command["topic_alias_maximum"]
            options = {"clean_start": command["clean"], "properties": properties}
        self.client = client
        client.connect("127.0.0.1", PORT, keepalive=30, **options)
        client.loop_start()
        flags, reason, properties = self.wait("connack")
        if reason.is_failure:
            raise RuntimeError(f"connection refused: {reason}")
        assigned = getattr(properties, "AssignedClientIdentifier", None)
        return {"session_present": bool(flags.session_present), "assigned_id": assigned}

    def subscribe(self, command):
        properties = None
        if command["id"]:
            properties = Properties(PacketTypes.SUBSCRIBE)
            properties.SubscriptionIdentifier = command["id"]
        self.client.subscribe(command["filter"], command["qos"], properties=properties)
        return {"code": self.wait("suback")}

    def unsubscribe(self, command):
        self.client.unsubscribe(command["filter"])
        self.wait("unsuback")
        return {}

    def publish(self, command):
        properties = paho_properties(PacketTypes.PUBLISH, command["properties"])
        info = self.client.publish(
            command["topic"], payload_of(command), command["qos"], command["retain"], properties
        )
        while True:
            mid, reason = self.wait("published")
            if mid == info.mid:
                break
        if reason >= 0x80:
            raise RuntimeError(f"publish refused with reason {reason:#x}")
        return {}

    def disconnect(self, _command):
        self.disconnecting = True
        self.client.disconnect()
        self.wait("closed")
        self.client.loop_stop()
        return {}

    def on_message(self, _client, _userdata, message):
        properties = described_properties(getattr(message, "properties", None))
        topic = message.topic
        # paho leaves it to the application to look an alias up.
        if "topic_alias" in properties:
            topic = topic or self.topics[properties["topic_alias"]]
            self.topics[properties["topic_alias"]] = topic
        say_message(topic, message.payload, message.qos, message.retain, properties)

    def on_disconnect(self, _client, _userdata, flags, reason, _properties):
        if self.disconnecting:
            self.disconnecting = False
            self.results.put(("closed", None))
            return
        sent = flags.is_disconnect_packet_from_server
        say({"closed": {"reason": reason.value if sent else None}})


def main():
    puppet = Puppet()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            say({"reply": getattr(puppet, command["op"])(command)})
        except queue.Empty:
            say({"error": f"{command['op']}: no answer from the broker in {REPLY_SECONDS_MAX} s"})
        except Exception as error:  # noqa: BLE001 - the test shows whatever the library raised
            say({"error": f"{command['op']}: {error!r}"})


main()
