"""What the scripts that make vectors of VEIL-1 share: layouts, keys and certificates (sections 2 and 3), written from the text alone.

Needs the package `cryptography`.
"""
import hashlib, hmac, struct
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

RAW = (ser.Encoding.Raw, ser.PublicFormat.Raw)
NOW_MS = 1790000300000
ZERO = bytes(32)


def u8(x): return struct.pack(">B", x)
def u16(x): return struct.pack(">H", x)
def u32(x): return struct.pack(">I", x)
def u64(x): return struct.pack(">Q", x)
def v8(b): return u8(len(b)) + b
def v16(b): return u16(len(b)) + b
def H(b): return hashlib.sha256(b).digest()
def M(k, b): return hmac.new(k, b, hashlib.sha256).digest()


def expand(prk, info, length):
    out = block = b""
    counter = 1
    while len(out) < length:
        block = M(prk, block + info + u8(counter))
        out += block
        counter += 1
    return out[:length]


def derive(secret, label, ctx=b"", length=32):
    return expand(secret, u16(length) + v8(b"veil1 " + label) + v8(ctx), length)


def seed(name): return H(b"veil1 test seed " + name.encode())
def ed(name): return Ed25519PrivateKey.from_private_bytes(seed(name))
def x(name): return X25519PrivateKey.from_private_bytes(seed(name))
def pub(key): return key.public_key().public_bytes(*RAW)
def kid(key): return H(b"veil1 kid" + pub(key))[:8]


def sign(key, label, digest):
    return key.sign(b"\x20" * 64 + b"veil1 " + label + b"\0" + digest)


def certificate(role, serial, key, share, subject):
    body = b"VMC1" + u8(role) + u64(serial) + u64(1790000000) + u64(1821536000) + pub(key) + pub(share)
    body += kid(ed("ca")) + v8(subject) + v16(b"")
    return body + sign(ed("ca"), b"cert", H(body))


def shared(own, other):
    """What two key pairs agree on."""
    return own.exchange(X25519PublicKey.from_public_bytes(pub(other)))


def sealed(key, iv, plain, aad): return ChaCha20Poly1305(key).encrypt(iv, plain, aad)
def hexed(values): return {name: value.hex() for name, value in values.items()}
