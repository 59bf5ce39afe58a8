"""Makes keys, and tokens signed with them, for the tests of tokens as passwords: `vectors.py NOW`, in unix seconds.

PyJWT and cryptography make what the broker checks with code of its own. What PyJWT refuses to make is put together by hand.
"""

import base64
import hashlib
import hmac
import json
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm


def encode(data):
    if not isinstance(data, bytes):
        data = json.dumps(data).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def main(now):
    secret = b"a secret of more than thirty-two bytes"
    keys = {
        "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    stranger = ec.generate_private_key(ec.SECP256R1())
    makers = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
    jwks = [json.loads(makers[name].to_jwk(key.public_key())) | {"kid": name} for name, key in keys.items()]
    for key in jwks:
        key.pop("key_ops", None)
    jwks.append({"kty": "oct", "kid": "HS256", "alg": "HS256", "k": encode(secret)})
    pems = {name: pem(key) for name, key in keys.items()} | {"P-384": pem(ec.generate_private_key(ec.SECP384R1()))}
    keys["HS256"] = secret
    claims = {"sub": "ann", "exp": now + 3600, "iss": "https://issuer.example", "aud": ["broker", "other"]}

    def sign(changes=(), name="ES256", key=None, **header):
        header = {"kid": name} | header
        whole = {member: value for member, value in (claims | dict(changes)).items() if value is not None}
        return jwt.encode(whole, key or keys[name], algorithm=name, headers=header)

    def by_hand(header, signature, changes=()):
        signed = f"{encode(header)}.{encode(claims | dict(changes))}"
        return f"{signed}.{encode(signature(signed.encode()))}"

    def with_public_key_as_secret(algorithm, changes=()):
        material = pem(keys["RS256"]).encode()
        return by_hand(
            {"alg": algorithm, "kid": "RS256"}, lambda signed: hmac.digest(material, signed, hashlib.sha256), changes
        )

    good = {name: sign(name=name) for name in keys}
    head, payload, signature = good["ES256"].split(".")
    tokens = {
        "good": good,
        "good without name": jwt.encode(claims, keys["ES256"], algorithm="ES256"),
        "one audience": sign({"aud": "broker"}),
        "whole moment": sign({"exp": now + 3600.75}),
        "no subject": sign({"sub": None, "name": "ann"}),
        "lasting": {name: sign({"exp": 4102444800}, name=name) for name in keys},
        "lasting, of no algorithm": by_hand({"alg": "none"}, lambda signed: b"", {"exp": 4102444800}),
        "lasting, of the public key as secret": with_public_key_as_secret("HS256", {"exp": 4102444800}),
        "bad": {
            "none": by_hand({"alg": "none"}, lambda signed: b""),
            "None": by_hand({"alg": "None", "kid": "ES256"}, lambda signed: b""),
            "none, signed": by_hand({"alg": "none"}, lambda signed: b"x"),
            "public key as secret": with_public_key_as_secret("HS256"),
            "other algorithm named": with_public_key_as_secret("RS256"),
            "wrong key": sign(key=stranger),
            "name of another key": sign(kid="RS256"),
            "unknown name": sign(kid="nobody"),
            "RS512": jwt.encode(claims, keys["RS256"], algorithm="RS512", headers={"kid": "RS256"}),
            "expired": sign({"exp": now - 1}),
            "expires now": sign({"exp": now}),
            "no end": sign({"exp": None}),
            "not yet": sign({"nbf": now + 600}),
            "other issuer": sign({"iss": "https://other.example"}),
            "no issuer": sign({"iss": None}),
            "other audience": sign({"aud": "other"}),
            "other user": sign({"sub": "bob"}),
            "critical": sign(crit=["exp"]),
            "signature cut off": f"{head}.{payload}.",
            "signature of other length": f"{head}.{payload}.{signature[:-2]}",
            "two parts": f"{head}.{payload}",
            "four parts": f"{good['ES256']}.x",
            "changed payload": f"{head}.{encode(claims | {'exp': now + 9999})}.{signature}",
            "padded": f"{head}=.{payload}.{signature}",
            "no token": "password",
            "empty": "",
        },
    }
    print(json.dumps({"jwks": {"keys": jwks}, "pems": pems, "secret": secret.decode(), "tokens": tokens}, indent=1))


main(int(sys.argv[1]))
