// Does calls as lines of JSON on stdin say, and writes a line for each that has ended.
// Usage: node grpc_js.js HOST:PORT, with @grpc/grpc-js in NODE_PATH.
'use strict';

const grpc = require('@grpc/grpc-js');
const readline = require('readline');

const OPTIONS = {
  'grpc.use_local_subchannel_pool': 1,
  'grpc.max_receive_message_length': -1,
  'grpc.max_send_message_length': -1,
};
const GZIP = { ...OPTIONS, 'grpc.default_compression_algorithm': 2 };
const credentials = grpc.credentials.createInsecure();
const clients = {
  plain: new grpc.Client(process.argv[2], credentials, OPTIONS),
  gzip: new grpc.Client(process.argv[2], credentials, GZIP),
};
const running = new Map();
const same = (bytes) => bytes;

function headers(pairs) {
  const found = new grpc.Metadata();
  for (const [name, value] of pairs) {
    found.add(name, name.endsWith('-bin') ? Buffer.from(value, 'base64') : value);
  }
  return found;
}

function shown(metadata) {
  const found = [];
  for (const name of Object.keys(metadata.toJSON())) {
    for (const value of metadata.get(name)) found.push([name, value.toString()]);
  }
  return found;
}

function begin({ id, kind, path, messages, metadata, timeout_s: timeout, gzip, hold, endless }) {
  const sent = messages.map((each) => Buffer.from(each, 'base64'));
  const options = timeout ? { deadline: Date.now() + 1000 * timeout } : {};
  const answer = { id, messages: [], initial: [] };
  const keep = (message) => message && answer.messages.push(message.toString('base64'));
  const client = clients[gzip ? 'gzip' : 'plain'];
  const made = [path, same, same];
  const also = [headers(metadata), options];
  let call;
  if (kind === 'unary') {
    call = client.makeUnaryRequest(...made, sent[0], ...also, (_error, one) => keep(one));
  } else if (kind === 'client') {
    call = client.makeClientStreamRequest(...made, ...also, (_error, one) => keep(one));
  } else if (kind === 'server') {
    call = client.makeServerStreamRequest(...made, sent[0], ...also);
  } else {
    call = client.makeBidiStreamRequest(...made, ...also);
  }
  running.set(id, call);
  call.on('metadata', (found) => { answer.initial = shown(found); });
  call.on('error', () => {}); // the status says it, too
  call.on('status', ({ code, details, metadata: trailers }) => {
    running.delete(id);
    console.log(JSON.stringify({ ...answer, code, details, trailers: shown(trailers) }));
  });
  if (kind === 'server' || kind === 'both') {
    call.take = () => call.on('data', (message) => {
      keep(message);
      if (answer.messages.length === 1) console.log(JSON.stringify({ id, first: true }));
    });
    if (!hold) call.take();
  }
  if (kind === 'client' || kind === 'both') {
    for (const each of sent) call.write(each);
    if (endless) {
      const pump = () => {
        while (running.has(id) && call.write(Buffer.alloc(2 ** 20)));
        if (running.has(id)) call.once('drain', pump);
      };
      pump();
    } else if (!hold) {
      call.end();
    }
  }
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const { tell, ...command } = JSON.parse(line);
  if (!tell) begin(command);
  else running.get(command.id)?.[tell](); // cancel, end, take
}).on('close', () => process.exit(0));
