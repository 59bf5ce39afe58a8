// The article's side of the conversation, on node:crypto alone: deriveTopicKey, encryptPayload and
// decryptPayload as it gives them. Reads one JSON request per line and answers each with one line:
//   {"do":"encrypt","master":hex,"topic":text,"salt":hex,"data":any}   -> {"payload":hex}
//   {"do":"decrypt","master":hex,"topic":text,"salt":hex,"payload":hex} -> {"data":any}
//   anything that fails                                               -> {"error":text}
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline';

function deriveTopicKey(masterKey, topic, salt) {
  return Buffer.from(hkdfSync('sha256', masterKey, salt, topic, 32));
}

function encryptPayload(data, key) {
  const iv = randomBytes(16);
  const cipher = createCipheriv('aes-256-cbc', key, iv);
  const encrypted = Buffer.concat([cipher.update(JSON.stringify(data), 'utf8'), cipher.final()]);
  return Buffer.concat([iv, encrypted]);
}

function decryptPayload(payload, key) {
  const iv = payload.subarray(0, 16);
  const decipher = createDecipheriv('aes-256-cbc', key, iv);
  const decrypted = Buffer.concat([decipher.update(payload.subarray(16)), decipher.final()]);
  return JSON.parse(decrypted.toString('utf8'));
}

function answer(request) {
  const key = deriveTopicKey(Buffer.from(request.master, 'hex'), request.topic, Buffer.from(request.salt, 'hex'));
  switch (request.do) {
    case 'encrypt':
      return { payload: encryptPayload(request.data, key).toString('hex') };
    case 'decrypt':
      return { data: decryptPayload(Buffer.from(request.payload, 'hex'), key) };
    default:
      throw new Error(`unknown request ${request.do}`);
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  let reply;
  try {
    reply = answer(JSON.parse(line));
  } catch (error) {
    reply = { error: error.message };
  }
  console.log(JSON.stringify(reply));
}
