// Lets the interop tests drive MQTT.js; the commands and events are described in ../puppet.md.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import mqtt from 'mqtt';

const [port, version, directory, carrier, caFile] = process.argv.slice(2);
const isV5 = version === '5';
const REPLY_MILLISECONDS_MAX = 30_000;
const INLINE_BYTES_MAX = 64 * 1024;

let client;
let disconnecting = false;
let filesWritten = 0;

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');

const payloadOf = ({ payload, payload_file: file }) =>
  file === undefined ? Buffer.from(payload, 'hex') : readFileSync(file);

// MQTT.js has User Properties by name: those of the same name keep their order.
function propertiesOf({ utf8, expiry, topic_alias, response_topic, correlation_data, content_type, user }) {
  if (!isV5) return undefined;
  const properties = {};
  if (utf8 !== undefined) properties.payloadFormatIndicator = utf8;
  if (expiry !== undefined) properties.messageExpiryInterval = expiry;
  if (topic_alias !== undefined) properties.topicAlias = topic_alias;
  if (response_topic !== undefined) properties.responseTopic = response_topic;
  if (correlation_data !== undefined) properties.correlationData = Buffer.from(correlation_data, 'hex');
  if (content_type !== undefined) properties.contentType = content_type;
  if (user !== undefined) {
    properties.userProperties = {};
    for (const [name, value] of user) (properties.userProperties[name] ??= []).push(value);
  }
  return properties;
}

function describe(properties = {}) {
  const ids = properties.subscriptionIdentifier;
  const described = {
    utf8: properties.payloadFormatIndicator,
    expiry: properties.messageExpiryInterval,
    topic_alias: properties.topicAlias,
    response_topic: properties.responseTopic,
    correlation_data: properties.correlationData?.toString('hex'),
    content_type: properties.contentType,
    subscription_ids: ids === undefined ? undefined : [ids].flat(),
  };
  if (properties.userProperties) {
    described.user = Object.entries(properties.userProperties)
      .flatMap(([name, values]) => [values].flat().map((value) => [name, value]));
  }
  return described;
}

function onMessage(topic, payload, { qos, retain, properties }) {
  const message = { topic, qos, retain, properties: describe(properties) };
  if (payload.length <= INLINE_BYTES_MAX) {
    message.payload = payload.toString('hex');
  } else {
    filesWritten += 1;
    message.payload_file = join(directory, `received${filesWritten}`);
    writeFileSync(message.payload_file, payload);
  }
  say({ message });
}

function connect({ id, clean, expiry, will, receive_maximum, topic_alias_maximum }) {
  const options = {
    protocol: { tcp: 'mqtt', tls: 'mqtts', websocket: 'ws', 'secure-websocket': 'wss' }[carrier],
    ca: caFile === undefined ? undefined : readFileSync(caFile),
    host: '127.0.0.1',
    port: Number(port),
    protocolVersion: isV5 ? 5 : 4,
    clientId: id,
    clean,
    keepalive: 30,
    reconnectPeriod: 0,
    resubscribe: false,
  };
  if (isV5) {
    options.properties = { sessionExpiryInterval: expiry, topicAliasMaximum: topic_alias_maximum };
    if (receive_maximum !== null) options.properties.receiveMaximum = receive_maximum;
  }
  if (will) {
    const { topic, qos, retain } = will;
    options.will = { topic, qos, retain, payload: payloadOf(will), properties: propertiesOf(will.properties) };
  }

  return new Promise((resolve, reject) => {
    let reason = null;
    let connected = false;
    client = mqtt.connect(options);
    client.on('message', onMessage);
    client.on('disconnect', (packet) => { reason = packet.reasonCode; });
    client.on('error', reject);
    client.on('connect', (connack) => {
      connected = true;
      const assigned_id = connack.properties?.assignedClientIdentifier;
      resolve({ session_present: connack.sessionPresent, assigned_id });
    });
    client.on('close', () => {
      if (!connected) reject(new Error('closed before CONNACK'));
      else if (!disconnecting) say({ closed: { reason } });
    });
  });
}

const operations = {
  connect,
  subscribe: async ({ filter, qos, id }) => {
    const properties = id === null ? undefined : { subscriptionIdentifier: id };
    const granted = await client.subscribeAsync(filter, { qos, properties });
    return { code: granted[0].qos };
  },
  unsubscribe: async ({ filter }) => {
    await client.unsubscribeAsync(filter);
    return {};
  },
  publish: async (command) => {
    const { topic, qos, retain, properties } = command;
    await client.publishAsync(topic, payloadOf(command), { qos, retain, properties: propertiesOf(properties) });
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
