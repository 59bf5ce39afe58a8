// Property mode of VEIL-1 (section 5.3) for MQTT.js as it is: the handshake by its `handleAuth`, and a User Property with each PUBLISH.
// Written from docs/veil1-protocol.md alone, with nothing but node:crypto, so that it is a second implementation.
//
// Arguments: port, file with the authority of the broker's TLS certificate, the client's identity without `.vmc` and `.key`, and the
// broker's VEIL-1 certificate. It subscribes to `to/stock`, says `ready`, sends what it gets there on to `from/stock`, says `echoed`,
// then publishes with a wrong property and says how the broker ended the connection.

import { createCipheriv, createDecipheriv, createHash, createHmac, createPrivateKey, createPublicKey, diffieHellman,
  generateKeyPairSync, randomBytes, sign, timingSafeEqual, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { connect as connectTls } from 'node:tls';
import mqtt from 'mqtt';

const [port, caFile, identityPath, brokerFile] = process.argv.slice(2);
const METHOD = 'VEIL-1';
const ZERO = Buffer.alloc(32);
const FLAG_PROPERTY = 2;
const SCHEME_4 = 4;
const SUITE_GCM = 2;

const say = (line) => process.stdout.write(`${line}\n`);
const fail = (error) => {
  process.stderr.write(`${error.stack ?? error}\n`);
  process.exit(1);
};

const H = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest();
const HMAC = (key, ...parts) => parts.reduce((mac, part) => mac.update(part), createHmac('sha256', key)).digest();
const uint = (bytes) => (value) => {
  const out = Buffer.alloc(bytes);
  for (let at = bytes - 1, rest = BigInt(value); at >= 0; at -= 1, rest >>= 8n) out[at] = Number(rest & 255n);
  return out;
};
const [u8, u16, u32, u64] = [1, 2, 4, 8].map(uint);
const prefixed = (length) => (bytes) => Buffer.concat([length(bytes.length), Buffer.from(bytes)]);
const [v8, v16, v32] = [u8, u16, u32].map(prefixed);
const text = (value) => v16(Buffer.from(value, 'utf8'));

function derive(secret, label, context = Buffer.alloc(0), length = 32) {
  const info = Buffer.concat([u16(length), v8(Buffer.from(`veil1 ${label}`)), v8(context)]);
  let block = Buffer.alloc(0);
  let out = Buffer.alloc(0);
  for (let counter = 1; out.length < length; counter += 1) {
    block = HMAC(secret, block, info, u8(counter));
    out = Buffer.concat([out, block]);
  }
  return out.subarray(0, length);
}

const extract = (salt, input) => HMAC(salt, input);
const jwk = (crv, bytes) => ({ kty: 'OKP', crv, x: bytes.toString('base64url') });
const publicKey = (crv, bytes) => createPublicKey({ key: jwk(crv, bytes), format: 'jwk' });
const signed = (label, digest) =>
  Buffer.concat([Buffer.alloc(64, 0x20), Buffer.from(`veil1 ${label}`), Buffer.from([0]), digest]);

function seal(key, iv, aad, plain) {
  const cipher = createCipheriv('chacha20-poly1305', key, iv, { authTagLength: 16 });
  cipher.setAAD(aad, { plaintextLength: plain.length });
  return Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

function open(key, iv, aad, sealed) {
  const decipher = createDecipheriv('chacha20-poly1305', key, iv, { authTagLength: 16 });
  decipher.setAAD(aad, { plaintextLength: sealed.length - 16 });
  decipher.setAuthTag(sealed.subarray(-16));
  return Buffer.concat([decipher.update(sealed.subarray(0, -16)), decipher.final()]);
}

// Section 3: a certificate, and the seeds of its keys.
const certificate = readFileSync(`${identityPath}.vmc`);
const seeds = readFileSync(`${identityPath}.key`);
const clientId = certificate.subarray(102, 102 + certificate[101]).toString('utf8');
const ed25519 = createPrivateKey({
  key: Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seeds.subarray(0, 32)]),
  format: 'der',
  type: 'pkcs8',
});
const broker = readFileSync(brokerFile);
const brokerKey = broker.subarray(29, 61);

// Sections 4.1 to 4.5: SIGMA, which offers property mode, Scheme 4 and AES-256-GCM.
const ephemeral = generateKeyPairSync('x25519');
const share = Buffer.from(ephemeral.publicKey.export({ format: 'jwk' }).x, 'base64url');
const clientHello = Buffer.concat([
  Buffer.from([1, 1, 1, FLAG_PROPERTY, 1 << (SCHEME_4 - 1)]), v8([SUITE_GCM]), randomBytes(16), u64(Date.now()),
  H('veil1 kid', brokerKey).subarray(0, 8), share,
]);
const sent = [];
const received = [];
let keys;

function answer(serverHello) {
  const head = serverHello.subarray(0, 61);
  if (head[2] !== FLAG_PROPERTY || head[3] !== SCHEME_4 || head[4] !== SUITE_GCM) throw new Error('not what was offered');
  const sealed = serverHello.subarray(63);
  const t0 = H('veil1 transcript', Buffer.concat(sent));
  const t1 = H(t0, head);
  const z = diffieHellman({ privateKey: ephemeral.privateKey, publicKey: publicKey('X25519', head.subarray(29, 61)) });
  const hs = extract(derive(extract(ZERO, ZERO), 'derived', H('')), z);
  const flightKeys = (label) => {
    const secret = derive(hs, label, t1);
    return { key: derive(secret, 'key'), iv: derive(secret, 'iv', undefined, 12), finished: derive(secret, 'finished') };
  };

  const theirs = flightKeys('s hs');
  const flight = open(theirs.key, theirs.iv, t1, sealed);
  const shown = flight.subarray(2, 2 + flight.readUInt16BE(0));
  const signature = flight.subarray(-96, -32);
  if (!shown.equals(broker)) throw new Error('another broker');
  if (!verify(null, signed('broker auth', H(t1, shown)), publicKey('Ed25519', brokerKey), signature)) {
    throw new Error('the signature of the broker is wrong');
  }
  if (!timingSafeEqual(flight.subarray(-32), HMAC(theirs.finished, H(t1, shown, signature)))) {
    throw new Error('the MAC of the broker is wrong');
  }

  const t2 = H(t1, flight);
  const ours = flightKeys('c hs');
  const own = sign(null, signed('client auth', H(t2, certificate)), ed25519);
  const plain = Buffer.concat([v16(certificate), own, HMAC(ours.finished, H(t2, certificate, own))]);
  const t3 = H(t2, plain);
  const master = extract(derive(hs, 'derived', H('')), ZERO);
  keys = {
    t3,
    acknowledge: derive(derive(master, 's ack', t3), 'mac'),
    ours: derive(derive(master, 'c ap', t3), 'prop mac'),
    theirs: derive(derive(master, 's ap', t3), 'prop mac'),
  };
  return Buffer.concat([Buffer.from([3, 1]), v16(seal(ours.key, ours.iv, t2, plain))]);
}

function packetsOf(bytes) {
  const packets = [];
  for (let at = 0; at < bytes.length;) {
    let length = 0;
    let digits = 1;
    for (let shift = 0; ; shift += 7, digits += 1) {
      length |= (bytes[at + digits] & 127) << shift;
      if (bytes[at + digits] < 128) break;
    }
    packets.push(bytes.subarray(at, at + 1 + digits + length));
    at += 1 + digits + length;
  }
  return packets;
}

// Section 4.4: the tag over CONNACK, which is the second packet after AUTH.
function checkConnack(finish) {
  const connack = Buffer.from(packetsOf(Buffer.concat(received))[1]);
  const at = connack.indexOf(finish) + finish.length - 32;
  const tag = Buffer.from(connack.subarray(at, at + 32));
  connack.fill(0, at, at + 32);
  if (!timingSafeEqual(tag, HMAC(keys.acknowledge, keys.t3, connack))) throw new Error('the tag of CONNACK is wrong');
}

// Section 5.3. Properties are written in the order in which they are in the packet.
const PROPERTIES = {
  payloadFormatIndicator: (value) => Buffer.concat([u8(1), u8(value ? 1 : 0)]),
  messageExpiryInterval: (value) => Buffer.concat([u8(2), u32(value)]),
  contentType: (value) => Buffer.concat([u8(3), text(value)]),
  responseTopic: (value) => Buffer.concat([u8(8), text(value)]),
  correlationData: (value) => Buffer.concat([u8(9), v16(value)]),
  subscriptionIdentifier: (value) => Buffer.concat([value].flat().flatMap((id) => [u8(11), u8(id)])),
  userProperties: (pairs) => Buffer.concat(Object.entries(pairs)
    .filter(([name]) => name !== 'v1m')
    .flatMap(([name, values]) => [values].flat().map((value) => Buffer.concat([u8(0x26), text(name), text(value)])))),
};

function tagOf(key, direction, sequence, { qos, retain, topic, properties = {}, payload }) {
  const encoded = Object.entries(properties).map(([name, value]) => PROPERTIES[name](value));
  return HMAC(
    key, 'veil1 prop', direction, u64(sequence), u8(qos << 1 | (retain ? 1 : 0)), text(topic),
    v32(Buffer.concat(encoded)), payload,
  ).subarray(0, 16);
}

let next = 0n;
let last = -1n;

function publish(topic, payload, { qos = 1, retain = false, properties = {} } = {}) {
  const sequence = next;
  next += 1n;
  const tag = tagOf(keys.ours, 'c', sequence, { qos, retain, topic, properties, payload });
  const v1m = Buffer.concat([u64(sequence), tag]).toString('base64url');
  const userProperties = { ...properties.userProperties, v1m };
  return client.publishAsync(topic, payload, { qos, retain, properties: { ...properties, userProperties } });
}

function check(topic, payload, { qos, retain, properties }) {
  const names = Object.keys(properties.userProperties);
  const value = properties.userProperties.v1m;
  if (typeof value !== 'string' || names.at(-1) !== 'v1m') throw new Error('v1m is not there once, and last');
  const bytes = Buffer.from(value, 'base64url');
  const sequence = bytes.readBigUInt64BE(0);
  const tag = tagOf(keys.theirs, 's', sequence, { qos, retain, topic, properties, payload });
  if (!timingSafeEqual(bytes.subarray(8), tag)) throw new Error(`the tag of a message on ${topic} is wrong`);
  if (sequence <= last) throw new Error('a message came again');
  last = sequence;
}

const client = new mqtt.MqttClient(() => {
  const socket = connectTls({ host: '127.0.0.1', port: Number(port), ca: readFileSync(caFile) });
  const write = socket.write.bind(socket);
  socket.write = (chunk, encoding, callback) => {
    if (keys === undefined) sent.push(Buffer.from(chunk, typeof encoding === 'string' ? encoding : undefined));
    return write(chunk, encoding, callback);
  };
  socket.on('data', (chunk) => { if (last < 0n) received.push(chunk); });
  socket.once('secureConnect', () => socket.emit('connect'));
  return socket;
}, {
  protocolVersion: 5,
  clientId,
  clean: true,
  reconnectPeriod: 0,
  properties: { authenticationMethod: METHOD, authenticationData: clientHello },
});

client.handleAuth = (packet, callback) => {
  try {
    const authenticationData = answer(packet.properties.authenticationData);
    callback(null, {
      cmd: 'auth', reasonCode: 0x18, properties: { authenticationMethod: METHOD, authenticationData },
    });
  } catch (error) {
    fail(error);
  }
};

client.on('error', fail);
client.on('disconnect', ({ reasonCode }) => {
  say(`refused 0x${reasonCode.toString(16)}`);
  process.exit(0);
});
client.on('connect', async (connack) => {
  try {
    checkConnack(connack.properties.authenticationData);
    if (connack.properties.topicAliasMaximum) throw new Error('aliases are offered');
    await client.subscribeAsync('to/stock', { qos: 1, properties: { subscriptionIdentifier: 7 } });
    say('ready');
  } catch (error) {
    fail(error);
  }
});
client.on('message', async (topic, payload, packet) => {
  try {
    check(topic, payload, packet);
    const properties = { contentType: 'text/plain', userProperties: { unit: 'C', from: clientId } };
    await publish('from/stock', payload, { qos: 1, properties });
    await publish('from/stock', payload, { qos: 2, retain: true });
    say('echoed');
    await client.publishAsync('from/stock', 'forged', { qos: 1, properties: { userProperties: { v1m: 'A'.repeat(32) } } });
    throw new Error('a forged message was taken');
  } catch (error) {
    if (client.connected) fail(error);
  }
});
setTimeout(() => fail(new Error('nothing happened for 30 s')), 30_000);
