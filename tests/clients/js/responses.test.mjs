// Each call on `client.responses`, over HTTP.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';

import { all, client, counted, FIRST, LONG, MODEL, said, SECOND, TEXT } from './mesh.mjs';

const ORDER = [
  'response.created',
  'response.in_progress',
  'response.output_item.added',
  'response.content_part.added',
  'response.output_text.delta',
  'response.output_text.done',
  'response.content_part.done',
  'response.output_item.done',
  'response.completed',
];

const openai = client();
const other = client(SECOND);

test('create', async () => {
  const response = await openai.responses.create({ model: MODEL, input: TEXT });
  assert.equal(response.output_text, TEXT);
  assert.equal(response.status, 'completed');
  assert.equal(response.usage.total_tokens, response.usage.input_tokens + response.usage.output_tokens);
  assert.ok(response._request_id);
});

test('create streamed', async () => {
  const events = await all(await openai.responses.create({ model: MODEL, input: TEXT, stream: true }));
  assert.deepEqual([...new Set(events.map((event) => event.type))], ORDER);
  assert.deepEqual(events.map((event) => event.sequence_number), counted(events));
  assert.equal(said(events), TEXT);
});

test('the stream helper', async () => {
  const snapshots = [];
  const stream = openai.responses.stream({ model: MODEL, input: TEXT });
  stream.on('response.output_text.delta', (event) => snapshots.push(event.snapshot));
  const response = await stream.finalResponse();
  assert.equal(response.output_text, TEXT);
  assert.equal(snapshots.at(-1), TEXT);
});

test('the stream helper resumes', async () => {
  const begun = await openai.responses.create({ model: MODEL, input: TEXT, background: true });
  const stream = other.responses.stream({ response_id: begun.id, starting_after: 3 });
  const events = await all(stream);
  assert.equal(events[0].sequence_number, 4);
  assert.equal((await stream.finalResponse()).output_text, TEXT);
});

test('create takes items, instructions and metadata, and echoes', async () => {
  const response = await openai.responses.create({
    model: MODEL,
    instructions: 'Repeat.',
    input: [
      { role: 'developer', content: 'Repeat.' },
      { role: 'user', content: [{ type: 'input_text', text: TEXT }] },
    ],
    metadata: { team: 'atlas' },
    temperature: 0.5,
    top_p: 0.25,
    max_output_tokens: 64,
    truncation: 'auto',
    safety_identifier: 's-1',
    prompt_cache_key: 'k-1',
  });
  assert.equal(response.output_text, TEXT);
  assert.equal(response.instructions, 'Repeat.');
  assert.deepEqual(response.metadata, { team: 'atlas' });
  assert.deepEqual(
    [response.temperature, response.top_p, response.max_output_tokens, response.truncation],
    [0.5, 0.25, 64, 'auto'],
  );
  assert.deepEqual([response.safety_identifier, response.prompt_cache_key], ['s-1', 'k-1']);
});

test('create continues a response', async () => {
  const first = await openai.responses.create({ model: MODEL, input: 'First.' });
  const second = await other.responses.create({ model: MODEL, input: 'Second.', previous_response_id: first.id });
  assert.equal(second.output_text, 'Second.');
  assert.ok(second.usage.input_tokens > first.usage.total_tokens);
});

test('create takes its own output back', async () => {
  const first = await openai.responses.create({ model: MODEL, input: 'First.' });
  const input = [{ role: 'user', content: 'First.' }, ...first.output, { role: 'user', content: 'Second.' }];
  const second = await openai.responses.create({ model: MODEL, input });
  assert.equal(second.output_text, 'Second.');
  assert.ok(second.usage.input_tokens > first.usage.total_tokens);
});

test('create stops at the token limit', async () => {
  const response = await openai.responses.create({ model: MODEL, input: LONG, max_output_tokens: 5 });
  assert.equal(response.status, 'incomplete');
  assert.deepEqual(response.incomplete_details, { reason: 'max_output_tokens' });
  assert.equal(response.usage.output_tokens, 5);
});

test('background is polled', async () => {
  let response = await openai.responses.create({ model: MODEL, input: TEXT, background: true });
  while (response.status === 'queued' || response.status === 'in_progress') {
    response = await other.responses.retrieve(response.id);
  }
  assert.equal(response.output_text, TEXT);
});

test('background streamed is left and resumed', async () => {
  const text = Array.from({ length: 40 }, (_, n) => `word${n}`).join(' ');
  const seen = [];
  for await (const event of await openai.responses.create({
    model: MODEL, input: text, background: true, stream: true,
  })) {
    seen.push(event);
    if (event.type === 'response.output_text.delta') break;
  }
  const { id } = seen[0].response;
  const last = seen.at(-1).sequence_number;
  seen.push(...(await all(await other.responses.retrieve(id, { stream: true, starting_after: last }))));
  assert.deepEqual(seen.map((event) => event.sequence_number), counted(seen));
  assert.equal(said(seen), text);
});

test('retrieve', async () => {
  const created = await openai.responses.create({ model: MODEL, input: TEXT });
  const fetched = await other.responses.retrieve(created.id);
  assert.deepEqual(JSON.parse(JSON.stringify(fetched)), JSON.parse(JSON.stringify(created)));
});

test('retrieve streamed', async () => {
  const live = await all(await openai.responses.create({ model: MODEL, input: TEXT, stream: true }));
  const { id } = live[0].response;
  const again = await all(await other.responses.retrieve(id, { stream: true }));
  assert.deepEqual(again, live);
});

test('cancel', async () => {
  const begun = await openai.responses.create({ model: MODEL, input: LONG, background: true });
  const ended = await other.responses.cancel(begun.id);
  assert.equal(ended.status, 'cancelled');
  assert.ok(LONG.startsWith(ended.output.map((item) => item.content[0].text).join('')));
});

test('delete', async () => {
  const created = await openai.responses.create({ model: MODEL, input: TEXT });
  await openai.responses.delete(created.id);
  for (const reader of [openai, other]) {
    await assert.rejects(reader.responses.retrieve(created.id), OpenAI.NotFoundError);
  }
});

test('input items, over pages', async () => {
  const words = Array.from({ length: 7 }, (_, n) => `item ${n}`);
  const input = words.map((content) => ({ role: 'user', content }));
  const created = await openai.responses.create({ model: MODEL, input });
  const items = await all(other.responses.inputItems.list(created.id, { limit: 3, order: 'asc' }));
  assert.deepEqual(items.map((item) => item.content[0].text), words);
});

test('input tokens', async () => {
  const counted = await openai.responses.inputTokens.count({ model: MODEL, input: TEXT });
  const { usage } = await openai.responses.create({ model: MODEL, input: TEXT });
  assert.equal(counted.input_tokens, usage.input_tokens);
});

test('nobody finds what was not stored', async () => {
  const created = await openai.responses.create({ model: MODEL, input: TEXT, store: false });
  await assert.rejects(other.responses.retrieve(created.id), OpenAI.NotFoundError);
});

test('an aborted stream ends without an error', async () => {
  const stream = await openai.responses.create({ model: MODEL, input: LONG, stream: true });
  const seen = [];
  for await (const event of stream) {
    seen.push(event.type);
    if (event.type === 'response.output_text.delta') stream.controller.abort();
  }
  assert.ok(!seen.includes('response.completed'));
});

test('a stream can be split and sent on', async () => {
  const [left, right] = (await openai.responses.create({ model: MODEL, input: TEXT, stream: true })).tee();
  const [one, two] = await Promise.all([all(left), all(right)]);
  assert.deepEqual(one, two);
  assert.equal(said(one), TEXT);
});

test('plain fetch reads the same stream', async () => {
  const answer = await fetch(`${FIRST}/responses`, {
    method: 'POST',
    headers: { authorization: `Bearer ${openai.apiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: MODEL, input: TEXT, stream: true }),
  });
  assert.equal(answer.headers.get('content-type'), 'text/event-stream; charset=utf-8');
  const events = (await answer.text())
    .split('\n\n')
    .filter(Boolean)
    .map((block) => JSON.parse(block.split('\n')[1].slice('data: '.length)));
  assert.equal(said(events), TEXT);
});
