// Lets the interop tests drive MQTT.js; the commands and events are described in ../puppet.md.

import { createInterface } from 'node:readline';
import mqtt from 'mqtt';

const [port, version] = process.argv.slice(2);
const isV5 = version === '5';
const REPLY_MILLISECONDS_MAX = 30_000;

let client;
let disconnecting = false;

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');

function connect({ id, clean, expiry, will }) {
  const options = {
    host: '127.0.0.1',
    port: Number(port),
    protocolVersion: isV5 ? 5 : 4,
    clientId: id,
    clean,
    keepalive: 30,
    reconnectPeriod: 0,
    resubscribe: false,
  };
  if (isV5) options.properties = { sessionExpiryInterval: expiry };
  if (will) options.will = { ...will, payload: Buffer.from(will.payload, 'hex') };

  return new Promise((resolve, reject) => {
    let reason = null;
    let connected = false;
    client = mqtt.connect(options);
    client.on('message', (topic, payload, packet) =>
      say({ message: { topic, payload: payload.toString('hex'), qos: packet.qos, retain: packet.retain } }));
    client.on('disconnect', (packet) => { reason = packet.reasonCode; });
    client.on('error', reject);
    client.on('connect', (connack) => {
      connected = true;
      resolve({ session_present: connack.sessionPresent });
    });
    client.on('close', () => {
      if (!connected) reject(new Error('closed before CONNACK'));
      else if (!disconnecting) say({ closed: { reason } });
    });
  });
}

const operations = {
  connect,
  subscribe: async ({ filter, qos }) => {
    const granted = await client.subscribeAsync(filter, { qos });
    return { code: granted[0].qos };
  },
  unsubscribe: async ({ filter }) => {
    await client.unsubscribeAsync(filter);
    return {};
  },
  publish: async ({ topic, payload, qos, retain }) => {
    await client.publishAsync(topic, Buffer.from(payload, 'hex'), { qos, retain });
    return {};
  },
  disconnect: async () => {
    disconnecting = true;
    await client.endAsync();
    disconnecting = false;
    return {};
  },
};

const deadline = (op) => new Promise((_, reject) => {
  setTimeout(() => reject(new Error(`${op}: no answer in ${REPLY_MILLISECONDS_MAX} ms`)), REPLY_MILLISECONDS_MAX).unref();
});

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    say({ reply: await Promise.race([operations[command.op](command), deadline(command.op)]) });
  } catch (error) {
    say({ error: `${command.op}: ${error.message}` });
  }
}
process.exit(0);
