"""The article's format once more, with Python's `cryptography` instead of our code.

Every line of standard input is a JSON object: "op" is "seal" or "open"; the key is "raw", or "master" with "salt"; "topic" is
the Topic Name. To seal, "iv" and "text" are needed; to open, "payload". Bytes are hexadecimal digits. The answer to each is
one line: the payload in hexadecimal digits, or the text.
"""

import json
import sys

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

IV_BYTES = 16


def topic_key(request):
    if "raw" in request:
        return bytes.fromhex(request["raw"])
    salt = bytes.fromhex(request["salt"])
    info = request["topic"].encode()
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(bytes.fromhex(request["master"]))


def seal(request):
    padder = padding.PKCS7(128).padder()
    padded = padder.update(request["text"].encode()) + padder.finalize()
    iv = bytes.fromhex(request["iv"])
    encryptor = Cipher(algorithms.AES(topic_key(request)), modes.CBC(iv)).encryptor()
    return (iv + encryptor.update(padded) + encryptor.finalize()).hex()


def open_(request):
    payload = bytes.fromhex(request["payload"])
    iv, body = payload[:IV_BYTES], payload[IV_BYTES:]
    decryptor = Cipher(algorithms.AES(topic_key(request)), modes.CBC(iv)).decryptor()
    unpadder = padding.PKCS7(128).unpadder()
    return (unpadder.update(decryptor.update(body) + decryptor.finalize()) + unpadder.finalize()).decode()


for line in sys.stdin:
    request = json.loads(line)
    print(seal(request) if request["op"] == "seal" else open_(request), flush=True)
