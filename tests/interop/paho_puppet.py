"""Lets the interop tests drive paho-mqtt; the commands and events are described in puppet.md."""

import json
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

REPLY_SECONDS_MAX = 30


def say(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Puppet:
    """One paho client: callbacks run on paho's network thread and hand results over in `results`."""

    def __init__(self, port, version):
        self.port = port
        self.is_v5 = version == "5"
        self.results = queue.Queue()
        self.client = None
        self.disconnecting = False

    def wait(self, kind):
        while True:
            got, value = self.results.get(timeout=REPLY_SECONDS_MAX)
            if got == kind:
                return value

    def connect(self, command):
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=command["id"],
            clean_session=None if self.is_v5 else command["clean"],
            protocol=mqtt.MQTTv5 if self.is_v5 else mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        client.on_connect = lambda _c, _u, flags, reason, _p: self.results.put(("connack", (flags, reason)))
        client.on_subscribe = lambda _c, _u, _mid, reasons, _p: self.results.put(("suback", reasons[0].value))
        client.on_unsubscribe = lambda _c, _u, _mid, _reasons, _p: self.results.put(("unsuback", None))
        client.on_publish = lambda _c, _u, mid, reason, _p: self.results.put(("published", (mid, reason.value)))
        client.on_message = self.on_message
        client.on_disconnect = self.on_disconnect
        if command["will"]:
            will = command["will"]
            client.will_set(will["topic"], bytes.fromhex(will["payload"]), will["qos"], will["retain"])
        options = {}
        if self.is_v5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = command["expiry"]
            options = {"clean_start": command["clean"], "properties": properties}
        self.client = client
        client.connect("127.0.0.1", self.port, keepalive=30, **options)
        client.loop_start()
        flags, reason = self.wait("connack")
        if reason.is_failure:
            raise RuntimeError(f"connection refused: {reason}")
        return {"session_present": bool(flags.session_present)}

    def subscribe(self, command):
        self.client.subscribe(command["filter"], command["qos"])
        return {"code": self.wait("suback")}

    def unsubscribe(self, command):
        self.client.unsubscribe(command["filter"])
        self.wait("unsuback")
        return {}

    def publish(self, command):
        payload = bytes.fromhex(command["payload"])
        info = self.client.publish(command["topic"], payload, command["qos"], command["retain"])
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
        say({
            "message": {
                "topic": message.topic,
                "payload": message.payload.hex(),
                "qos": message.qos,
                "retain": bool(message.retain),
            }
        })

    def on_disconnect(self, _client, _userdata, flags, reason, _properties):
        if self.disconnecting:
            self.disconnecting = False
            self.results.put(("closed", None))
            return
        sent = flags.is_disconnect_packet_from_server
        say({"closed": {"reason": reason.value if sent else None}})


def main():
    puppet = Puppet(int(sys.argv[1]), sys.argv[2])
    for line in sys.stdin:
        command = json.loads(line)
        try:
            say({"reply": getattr(puppet, command["op"])(command)})
        except queue.Empty:
            say({"error": f"{command['op']}: no answer from the broker in {REPLY_SECONDS_MAX} s"})
        except Exception as error:  # noqa: BLE001 - the test shows whatever the library raised
            say({"error": f"{command['op']}: {error!r}"})


main()
