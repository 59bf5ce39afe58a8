#!/usr/bin/env python3
"""The online join of VEIL-1 (section 9.1) in Python, written from the text alone.

Prints veil1-join-vectors.json, which the tests compare with what the Rust implementation makes.
Needs the package `cryptography`.
"""
import json, pathlib, sys
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "protocol/tests/data"))
from veil1 import *

SCOPE = b"factory/line-3/#"
EPOCH = 1
HOUR_MS = 3600000
HISTORY_MS = 7 * 24 * HOUR_MS


def derived_x(name):
    """The key pair that RFC 9180 derives from a seed (section 7.1.3)."""
    suite = b"HPKE-v1KEM" + u16(0x0020)
    prk = M(b"", suite + b"dkp_prk" + seed(name))
    return X25519PrivateKey.from_private_bytes(expand(prk, u16(32) + suite + b"sk", 32))


ISSUER, MEMBER = ed("pub ed"), ed("sub ed")
CERT_P = certificate(0x04, 1, ISSUER, x("pub x"), b"press-07")
CERT_S = certificate(0x08, 2, MEMBER, x("sub x"), b"lake-1")
GK = seed("group key")

def ask(scope):
    """JOIN_REQ."""
    asked = b"VE" + u8(0x16) + seed("join ns")[:16] + u64(NOW_MS) + pub(derived_x("join eph s")) + kid(ISSUER) + v16(scope) + v16(CERT_S)
    return asked + sign(MEMBER, b"join req", H(asked))


request = ask(SCOPE)
commitment = derive(GK, b"commit", H(SCOPE) + u32(EPOCH) + kid(ISSUER))
# The first epoch, used from the start. The member has come since, so its head is issued again.
active, created = NOW_MS, NOW_MS + 20
retire = active + 24 * HOUR_MS + 7 * 24 * HOUR_MS + 600000
head = b"VE" + u8(0x13) + u8(1) + u8(0x01 | 0x08) + H(b"veil1 scope" + SCOPE)[:4] + u32(EPOCH) + kid(ISSUER)
head += u64(created) + u64(active) + u64(retire) + u64(retire + HISTORY_MS)
head += v8(b"\x02\x03") + v16(SCOPE) + commitment + ZERO + H(b"veil1 leaf" + kid(MEMBER)) + u16(1) + v16(CERT_P)
head += sign(ISSUER, b"key head", H(head))


def respond(nonce, share, rest, request=request):
    """JOIN_RSP and JOIN_FIN of an answer, and what becomes the key of a pair."""
    before = b"VE" + u8(0x18) + request[3:19] + nonce + u64(NOW_MS + 20) + pub(share)
    j1 = H(b"veil1 join" + request + before)
    z = shared(share, derived_x("join eph s"))
    hs = M(derive(M(ZERO, ZERO), b"derived", H(b"")), z)
    ours, theirs = derive(hs, b"e2e s", j1), derive(hs, b"e2e c", j1)
    signature = sign(ISSUER, b"join rsp", H(j1 + CERT_P))
    mac = M(derive(ours, b"finished"), H(j1 + CERT_P + signature))
    plain = v16(CERT_P) + signature + mac + rest
    flight = sealed(derive(ours, b"key"), derive(ours, b"iv", b"", 12), plain, j1)
    finish = b"VE" + u8(0x19) + M(derive(theirs, b"finished"), H(j1 + plain))
    main = M(derive(hs, b"derived", H(b"")), ZERO)
    pair = derive(main, b"pairwise", H(j1 + plain))
    return {"response": before + v16(flight), "finish": finish, "pair": pair}


def envelope(key, scope, epoch, topic, session, seq, text):
    """VE1 of a pair (section 10): AES-256-GCM, signed, flags b0 and b7."""
    header = b"VE" + u8(0x10) + u8(2) + u8(0x81) + H(b"veil1 scope" + scope)[:4] + u32(epoch) + kid(ISSUER) + u64(session) + u32(seq)
    aad = b"veil1 msg" + header + v16(scope) + v16(topic) + v16(b"")
    ctx = u8(2) + u32(epoch) + kid(ISSUER) + u64(session) + H(topic)
    iv = int.from_bytes(derive(key, b"stream iv", ctx, 12), "big") ^ seq
    body = AESGCM(derive(key, b"stream key", ctx)).encrypt(iv.to_bytes(12, "big"), text, aad)
    return header + body + sign(ISSUER, b"source", H(aad + body))


def on_the_wire(values): return hexed({name: value for name, value in values.items() if name != "pair"})


share = derived_x("join eph p")
nonce = seed("join np")[:16]
PAIR = b"pairwise:" + kid(ISSUER).hex().encode() + b":" + kid(MEMBER).hex().encode()
PAIR_TOPIC = b"_veil/1/p2p/" + kid(MEMBER).hex().encode() + b"/line-3/t"
PAIR_EPOCH = NOW_MS // 1000
pair_request = ask(PAIR)
pair = respond(nonce, share, v16(b"") + u8(0) + u32(PAIR_EPOCH) + u64(NOW_MS + 172800000), pair_request)
message = envelope(pair["pair"], PAIR, PAIR_EPOCH, PAIR_TOPIC, NOW_MS << 16 | 5, 0, b"for one alone")
print(json.dumps({
    "common": on_the_wire({"cert_p": CERT_P, "cert_s": CERT_S, "request": request, "head": head, "key": GK}),
    "group": on_the_wire(respond(nonce, share, v16(head) + u8(1) + u32(EPOCH) + GK)),
    "refusal": on_the_wire(respond(nonce, share, v16(b"") + u8(1))),
    "pair": on_the_wire({"request": pair_request, "response": pair["response"], "finish": pair["finish"], "key": pair["pair"],
                   "topic": PAIR_TOPIC, "message": message}),
}, indent=1))
