#!/usr/bin/env python3
"""Blind topics of VEIL-1 (section 14) in Python, written from the text alone.

Prints blind-topics-vectors.json, which the tests compare with what the Rust implementation makes. Needs nothing but Python.
"""
import base64, hashlib, hmac, json, struct


def H(b): return hashlib.sha256(b).digest()
def M(k, b): return hmac.new(k, b, hashlib.sha256).digest()
def v8(b): return struct.pack(">B", len(b)) + b
def v16(b): return struct.pack(">H", len(b)) + b


def derive(secret, label, ctx):
    """One block of HKDF-Expand, which is as long as a key."""
    return M(secret, struct.pack(">H", 32) + v8(b"veil1 " + label) + v8(ctx) + b"\x01")


def token(key, depth, level):
    tag = M(key, b"veil1 level" + struct.pack(">B", depth) + v16(level.encode()))
    return base64.b32encode(tag[:10]).decode().rstrip("=").lower()


def blind(key, prefix, epoch, name):
    share = ""
    if name.startswith("$share/"):
        _, group, name = name.split("/", 2)
        share = "$share/%s/" % group
    tokens = [level if level in "+#" and level else token(key, depth, level)
              for depth, level in enumerate(name.split("/"), 1)]
    head = [prefix] if prefix else []
    return share + "/".join(head + ["_vt", "%04x" % (epoch & 0xffff)] + tokens)


def from_master(master, prefix, epoch):
    """The group key of the scope that names are in."""
    secret = M(b"veil1 master", master)
    scope = (prefix + "/" if prefix else "") + "_vt/#"
    return derive(secret, b"gk", H(scope.encode()) + struct.pack(">I", epoch))


KEY = H(b"veil1 test seed topic key")
MASTER = bytes(range(32))
CASES = [
    ("", 1, "factory/line-3/sensor/temperature"),
    ("", 2, "factory/line-3/sensor/temperature"),
    ("plant-7", 1, "factory/line-3"),
    ("eu/plant-7", 0xbeef, "factory"),
    ("", 0x10001, "factory"),
    ("", 1, "factory/factory/factory"),
    ("", 1, "/"),
    ("", 1, "/a//b/"),
    ("", 1, "Fabrik/Stra\u00dfe 3/\u6e29\u5ea6"),
    ("", 1, "/".join(["d"] * 255)),
    ("", 1, "factory/+/sensor/#"),
    ("", 1, "+/+"),
    ("", 1, "#"),
    ("", 1, "/+"),
    ("", 1, "$share/readers/factory/+"),
    ("plant-7", 1, "$share/readers/#"),
]

print(json.dumps({
    "key": KEY.hex(),
    "master": MASTER.hex(),
    "names": [
        {"prefix": prefix, "epoch": epoch, "name": name, "wire": blind(KEY, prefix, epoch, name)}
        for prefix, epoch, name in CASES
    ],
    "from_master": [
        {"prefix": prefix, "epoch": epoch, "key": from_master(MASTER, prefix, epoch).hex(),
         "name": "factory/line-3", "wire": blind(from_master(MASTER, prefix, epoch), prefix, epoch, "factory/line-3")}
        for prefix, epoch in [("", 1), ("", 2), ("plant-7", 1)]
    ],
}, indent=1, ensure_ascii=False))
