// `ResponsesWS`: many responses on one connection, and what happens when it breaks.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ResponsesWS } from 'openai/resources/responses/ws';

import { client, counted, ENDS, MODEL, said, SECOND, TEXT } from './mesh.mjs';

const openai = client();

/** A connection that is closed when the test ends. */
function connected(t, options, sdk = openai) {
  const socket = new ResponsesWS(sdk, options);
  socket.on('error', () => {}); // the tests read errors as events; without a listener the SDK would throw
  t.after(() => socket.close());
  return socket;
}

/** The events up to the end of the next response. */
async function untilEnd(stream) {
  const events = [];
  for await (const item of { [Symbol.asyncIterator]: () => ({ next: () => stream.next() }) }) {
    if (item.type === 'close') throw new Error(`closed with ${item.code} ${item.reason}`);
    if (item.type === 'error') return [...events, item.error.error ?? item.error];
    if (item.type !== 'message') continue;
    events.push(item.message);
    if (ENDS.includes(item.message.type)) return events;
  }
  throw new Error('the connection ended');
}

test('create', async (t) => {
  const socket = connected(t);
  const stream = socket.stream();
  socket.send({ type: 'response.create', model: MODEL, input: TEXT });
  const events = await untilEnd(stream);
  assert.deepEqual(events.map((event) => event.sequence_number), counted(events));
  assert.equal(said(events), TEXT);
});

test('a conversation on one connection', async (t) => {
  const socket = connected(t);
  const stream = socket.stream();
  socket.send({ type: 'response.create', model: MODEL, input: 'First.' });
  const first = (await untilEnd(stream)).at(-1).response;
  socket.send({ type: 'response.create', model: MODEL, input: 'Second.', previous_response_id: first.id });
  const second = (await untilEnd(stream)).at(-1).response;
  assert.equal(second.previous_response_id, first.id);
  assert.ok(second.usage.input_tokens > first.usage.total_tokens);
});

test('lanes', async (t) => {
  const socket = connected(t);
  const ended = new Map();
  const done = new Promise((resolve) => {
    socket.on('response.completed', (event) => {
      ended.set(event.stream_id, event.response.output[0].content[0].text);
      if (ended.size === 3) resolve();
    });
  });
  for (const lane of ['a', 'b', 'c']) {
    socket.send({ type: 'response.create', model: MODEL, input: `lane ${lane}`, stream_id: lane });
  }
  await done;
  assert.deepEqual(Object.fromEntries(ended), { a: 'lane a', b: 'lane b', c: 'lane c' });
});

test('an error leaves the connection open', async (t) => {
  const socket = connected(t);
  const errors = [];
  socket.on('error', (error) => errors.push(error));
  const done = new Promise((resolve) => socket.on('response.completed', resolve));
  socket.send({ type: 'response.create', model: 'gpt-none', input: TEXT });
  socket.send({ type: 'response.create', model: MODEL, input: TEXT });
  await done;
  assert.equal(errors.length, 1);
  assert.match(errors[0].message, /gpt-none/);
});

test('a broken connection resumes at another gateway', async (t) => {
  const text = Array.from({ length: 60 }, (_, n) => `word${n}`).join(' ');
  const seen = [];
  let away = false;
  const socket = connected(t, {
    reconnect: {
      initialDelay: 20,
      onReconnecting: () => ({
        parameters: { response_id: seen[0].response.id, starting_after: String(seen.at(-1).sequence_number) },
      }),
    },
  });
  const ended = new Promise((resolve, reject) => {
    socket.on('close', (code, reason) => reject(new Error(`closed with ${code} ${reason}`)));
    socket.on('event', (event) => {
      seen.push(event);
      if (seen.length === 12) {
        openai.baseURL = SECOND;
        away = true;
        socket.socket.terminate();
      }
      if (ENDS.includes(event.type)) resolve();
    });
  });
  socket.send({ type: 'response.create', model: MODEL, input: text });
  await ended;
  assert.ok(away);
  assert.deepEqual(seen.map((event) => event.sequence_number), counted(seen));
  assert.equal(said(seen), text);
});
