#!/usr/bin/env python3
"""COMPACT and RESUME of VEIL-1 (sections 4.6 and 4.7) in Python, written from the text alone.

Prints veil1-one-trip-vectors.json, which the tests compare with what the Rust implementation makes.
Needs the package `cryptography`.
"""
import json

from veil1 import *


def varint(n):
    out = b""
    while True:
        n, low = n >> 7, n & 127
        out += u8(low | (128 if n else 0))
        if not n:
            return out


CLIENT, BROKER = ed("pub ed"), ed("broker ed")
CERT_C = certificate(0x04, 1, CLIENT, x("pub x"), b"press-07")
CERT_B = certificate(0x02, 3, BROKER, x("broker x"), b"broker-a")


def hello(mode, nonce, share, tail):
    body = u8(1) + u8(1) + u8(mode) + u8(1) + u8(0x08) + v8(b"\x02") + nonce + u64(NOW_MS)
    return body + kid(ed("ca")) + pub(share) + tail


def connect(data):
    properties = u8(0x15) + v16(b"VEIL-1") + u8(0x16) + v16(data)
    rest = v16(b"MQTT") + u8(5) + u8(2) + u16(30) + varint(len(properties)) + properties + v16(b"press-07")
    return u8(0x10) + varint(len(rest)) + rest


def connack(data):
    properties = u8(0x13) + u16(30) + u8(0x15) + v16(b"VEIL-1") + u8(0x16) + v16(data)
    rest = u8(0) + u8(0) + varint(len(properties)) + properties
    return u8(0x20) + varint(len(rest)) + rest


def fill(packet, data, proof):
    """The packet whose Authentication Data ends with zeros, with the proof in their place."""
    at = packet.index(data) + len(data) - len(proof)
    return packet[:at] + proof + packet[at + len(proof):]


def server_head(nonce, share): return u8(2) + u8(1) + u8(1) + u8(4) + u8(2) + nonce + u64(NOW_MS + 10) + pub(share)


def agree(psk, own, other):
    early = M(ZERO, psk)
    return early, M(derive(early, b"derived", H(b"")), shared(own, other))


def finish(handshake, t3, params, prefix):
    """Authentication Data and CONNACK, and the secrets."""
    master = M(derive(handshake, b"derived", H(b"")), ZERO)
    ack = derive(master, b"s ack", t3)
    data = prefix + v16(sealed(derive(ack, b"key"), derive(ack, b"iv", b"", 12), params, t3)) + bytes(32)
    packet = connack(data)
    packet = fill(packet, data, M(derive(ack, b"mac"), t3 + packet))
    return packet, {name: derive(master, label, t3) for name, label in
                    [("c_ap", b"c ap"), ("s_ap", b"s ap"), ("exporter", b"exporter"), ("res", b"resumption")]}


# COMPACT
client_share, broker_share = x("eph c"), x("eph b")
data = hello(2, seed("nc")[:16], client_share, v16(CERT_C) + bytes(64))
blank = connect(data)
t0 = H(b"veil1 transcript" + blank + v8(b"broker-a"))
signature = sign(CLIENT, b"compact client", H(t0 + CERT_C))
compact_connect = fill(blank, data, signature)
head = server_head(seed("nb")[:16], broker_share)
t1 = H(t0 + signature + head)
_, handshake = agree(ZERO, broker_share, client_share)
proof = sign(BROKER, b"broker auth", H(t1 + CERT_B))
mac = M(derive(derive(handshake, b"s hs", t1), b"finished"), H(t1 + CERT_B + proof))
t3 = H(t1 + CERT_B + proof)
# The ticket needs the resumption secret, which does not depend on the parameters.
_, secrets = finish(handshake, t3, b"", b"")
ticket_id, ticket_nonce = seed("ticket id")[:4], seed("ticket nonce")[:12]
inside = u8(1) + secrets["res"] + u8(4) + u8(2) + u64(NOW_MS) + u64(NOW_MS + 3600000) + v16(CERT_C)
ticket = ticket_id + ticket_nonce + sealed(seed("ticket key"), ticket_nonce, inside, ticket_id)
compact_connack, secrets = finish(
    handshake, t3, u8(1) + v16(ticket) + u8(4) + v16(u64(NOW_MS)), head + v16(CERT_B) + proof + mac)
compact = {"CONNECT": compact_connect, "CONNACK": compact_connack, "ticket": ticket, **secrets}

# RESUME
client_share, broker_share = x("eph c 2"), x("eph b 2")
psk = derive(secrets["res"], b"ticket", ticket_nonce)
data = hello(3, seed("nc 2")[:16], client_share, v16(ticket) + ZERO)
blank = connect(data)
t0 = H(b"veil1 transcript" + blank)
early, handshake = agree(psk, broker_share, client_share)
binder = M(derive(early, b"binder"), t0)
head = server_head(seed("nb 2")[:16], broker_share)
t3 = H(t0 + binder + head)
resume_connack, secrets = finish(handshake, t3, u8(4) + v16(u64(NOW_MS)), head)
resume = {"CONNECT": fill(blank, data, binder), "CONNACK": resume_connack, **secrets}

print(json.dumps({"compact": hexed(compact), "resume": hexed(resume)}, indent=1))
