// Each call on `client.chat.completions` that is served.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { all, client, LONG, MODEL, SECOND, TEXT } from './mesh.mjs';

const openai = client();
const asked = (fields, text = TEXT) => ({ model: MODEL, messages: [{ role: 'user', content: text }], ...fields });
const create = (fields, text) => openai.chat.completions.create(asked(fields, text));

/** What a choice said over the chunks of a stream. */
function said(chunks, index = 0) {
  const parts = chunks.flatMap((chunk) => chunk.choices).filter((choice) => choice.index === index);
  return parts.map((choice) => choice.delta.content ?? '').join('');
}

test('create', async () => {
  const { id, choices, usage } = await create();
  assert.match(id, /^chatcmpl-/);
  assert.equal(choices[0].message.content, TEXT);
  assert.equal(choices[0].finish_reason, 'stop');
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
});

test('create streamed with usage', async () => {
  const chunks = await all(await create({ stream: true, stream_options: { include_usage: true } }));
  assert.equal(said(chunks), TEXT);
  assert.equal(chunks.at(-2).choices[0].finish_reason, 'stop');
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.deepEqual(chunks.at(-1).usage, (await create()).usage);
});

test('the stream helper', async () => {
  const stream = openai.chat.completions.stream(asked());
  const pieces = [];
  stream.on('content', (delta) => pieces.push(delta));
  assert.equal(await stream.finalContent(), TEXT);
  assert.equal(pieces.join(''), TEXT);
  assert.equal((await stream.finalChatCompletion()).choices[0].finish_reason, 'stop');
});

test('several choices', async () => {
  const { choices } = await create({ n: 3 });
  assert.deepEqual(choices.map((choice) => choice.message.content), [TEXT, TEXT, TEXT]);
  const chunks = await all(await create({ n: 3, stream: true }));
  assert.deepEqual([0, 1, 2].map((index) => said(chunks, index)), [TEXT, TEXT, TEXT]);
});

test('a stop string', async () => {
  const { choices } = await create({ stop: ' the' });
  assert.deepEqual([choices[0].message.content, choices[0].finish_reason], ['The log is', 'stop']);
});

test('the token limit', async () => {
  const { choices, usage } = await create({ max_completion_tokens: 5 }, LONG);
  assert.deepEqual([choices[0].finish_reason, usage.completion_tokens], ['length', 5]);
});

test('log probabilities', async () => {
  const { choices } = await create({ logprobs: true, top_logprobs: 1 });
  const bytes = choices[0].logprobs.content.flatMap((entry) => entry.bytes);
  assert.ok(Buffer.from(bytes).toString().startsWith(TEXT));
});

test('its own message is taken back', async () => {
  const first = await create({}, 'First.');
  const messages = [
    { role: 'user', content: 'First.' }, first.choices[0].message, { role: 'user', content: 'Second.' },
  ];
  const second = await openai.chat.completions.create({ model: MODEL, messages });
  assert.equal(second.choices[0].message.content, 'Second.');
  assert.ok(second.usage.prompt_tokens > first.usage.total_tokens);
});

test('a stored completion is continued as a response', async () => {
  const first = await create({ store: true }, 'First.');
  const fields = { model: MODEL, input: 'Second.', previous_response_id: first.id };
  const second = await client(SECOND).responses.create(fields);
  assert.ok(second.usage.input_tokens > first.usage.total_tokens);
});

test('an aborted stream ends without an error', async () => {
  const stream = await create({ stream: true }, LONG);
  const chunks = [];
  for await (const chunk of stream) {
    chunks.push(chunk);
    if (said(chunks)) stream.controller.abort();
  }
  assert.ok(LONG.startsWith(said(chunks)));
  assert.notEqual(said(chunks), LONG);
});
