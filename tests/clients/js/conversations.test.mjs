// Each call on `client.conversations`, and `conversation` in responses over every transport.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as passed } from 'node:timers/promises';

import OpenAI from 'openai';
import { ResponsesWS } from 'openai/resources/responses/ws';

import { all, client, ENDS, FIRST, LONG, MODEL, OTHER_KEY, SECOND, TEXT } from './mesh.mjs';

const openai = client();
const other = client(SECOND);

const user = (content) => ({ type: 'message', role: 'user', content });
const textsOf = (items) => items.map((item) => item.content.map((part) => part.text).join(''));
const listed = (id, query = {}, sdk = openai) => all(sdk.conversations.items.list(id, { order: 'asc', ...query }));
const answered = (conversation, input = TEXT, fields = {}, sdk = openai) =>
  sdk.responses.create({ model: MODEL, input, conversation, ...fields });
const plain = (value) => JSON.parse(JSON.stringify(value));

/** The public log says `deleted` a moment after the DELETE of a conversation; from then on every gateway does. */
async function untilForgotten(id) {
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    const found = await other.responses.retrieve(id).catch((error) => error);
    if (found instanceof OpenAI.NotFoundError) return;
    await passed(50);
  }
}

test('create, retrieve, update and delete', async () => {
  const made = await openai.conversations.create({ metadata: { topic: 'tides' } });
  assert.equal(made.object, 'conversation');
  assert.deepEqual(plain(await other.conversations.retrieve(made.id)), plain(made));
  const updated = await other.conversations.update(made.id, { metadata: { topic: 'moons' } });
  assert.deepEqual(updated.metadata, { topic: 'moons' });
  const gone = await openai.conversations.delete(made.id);
  assert.deepEqual(plain(gone), { id: made.id, object: 'conversation.deleted', deleted: true });
  for (const reader of [openai, other]) {
    await assert.rejects(reader.conversations.retrieve(made.id), OpenAI.NotFoundError);
  }
});

test('create without anything', async () => {
  const made = await openai.conversations.create();
  assert.deepEqual(made.metadata, {});
  assert.deepEqual(await listed(made.id), []);
});

test('items are created, listed over pages, retrieved and deleted', async () => {
  const words = Array.from({ length: 12 }, (_, n) => `item ${n}`);
  const made = await openai.conversations.create({ items: words.slice(0, 5).map(user) });
  const added = await other.conversations.items.create(made.id, { items: words.slice(5).map(user) });
  assert.deepEqual(textsOf(added.data), words.slice(5));
  const items = await listed(made.id, { limit: 5 });
  assert.deepEqual(textsOf(items), words);
  assert.deepEqual(plain(await listed(made.id, { limit: 5, order: 'desc' }, other)), plain(items.toReversed()));
  const [, second] = items;
  const where = { conversation_id: made.id };
  assert.deepEqual(plain(await other.conversations.items.retrieve(second.id, where)), plain(second));
  assert.equal((await openai.conversations.items.delete(second.id, where)).id, made.id);
  await assert.rejects(other.conversations.items.retrieve(second.id, where), OpenAI.NotFoundError);
  assert.equal((await listed(made.id)).length, words.length - 1);
});

test('more than twenty items are refused', async () => {
  const items = Array.from({ length: 21 }, () => user('x'));
  await assert.rejects(openai.conversations.create({ items }), OpenAI.BadRequestError);
});

test('turns are appended, over every transport', async () => {
  const made = await openai.conversations.create({ items: [user('Before.')] });
  const first = await answered(made.id, 'One.');
  assert.deepEqual(first.conversation, { id: made.id });
  const events = await all(await answered({ id: made.id }, 'Two.', { stream: true }, other));
  assert.equal(events.at(-1).response.output_text ?? textsOf(events.at(-1).response.output)[0], 'Two.');
  await overWebSocket(made.id, 'Three.');
  let fourth = await answered(made.id, 'Four.', { background: true }, other);
  while (fourth.status === 'queued' || fourth.status === 'in_progress') {
    fourth = await openai.responses.retrieve(fourth.id);
  }
  const items = await listed(made.id);
  const turns = ['One.', 'Two.', 'Three.', 'Four.'];
  assert.deepEqual(textsOf(items), ['Before.', ...turns.flatMap((text) => [text, text])]);
  assert.equal(items[2].id, first.output[0].id);
  assert.ok(fourth.usage.input_tokens > first.usage.input_tokens);
});

/** A turn on a connection of its own. */
async function overWebSocket(conversation, input) {
  const socket = new ResponsesWS(openai);
  try {
    const ended = new Promise((resolve, reject) => {
      socket.on('error', reject);
      socket.on('event', (event) => ENDS.includes(event.type) && resolve(event));
    });
    socket.send({ type: 'response.create', model: MODEL, input, conversation });
    assert.equal((await ended).type, 'response.completed');
  } finally {
    socket.close();
  }
}

test('a busy conversation is refused after a while', async () => {
  const made = await openai.conversations.create();
  const holder = await answered(made.id, LONG, { background: true });
  try {
    await assert.rejects(answered(made.id, TEXT, {}, other), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.deepEqual([error.code, error.param], ['conversation_locked', 'conversation']);
      return true;
    });
  } finally {
    await openai.responses.cancel(holder.id);
  }
  assert.equal((await answered(made.id, TEXT, {}, other)).output_text, TEXT);
});

test('a conversation and a parent exclude each other', async () => {
  const made = await openai.conversations.create();
  const parent = await openai.responses.create({ model: MODEL, input: TEXT });
  await assert.rejects(answered(made.id, TEXT, { previous_response_id: parent.id }), (error) => {
    assert.equal(error.code, 'mutually_exclusive_parameters');
    return true;
  });
});

test('a deleted conversation takes its responses along', async () => {
  const made = await openai.conversations.create();
  const response = await answered(made.id);
  await other.conversations.delete(made.id);
  await untilForgotten(response.id);
  for (const reader of [openai, other]) {
    await assert.rejects(reader.responses.retrieve(response.id), OpenAI.NotFoundError);
    await assert.rejects(answered(made.id, TEXT, {}, reader), OpenAI.NotFoundError);
  }
});

test("another tenant's conversation does not exist", async () => {
  const made = await openai.conversations.create({ items: [user('Ours.')] });
  const theirs = client(FIRST, { apiKey: OTHER_KEY });
  await assert.rejects(theirs.conversations.retrieve(made.id), OpenAI.NotFoundError);
  await assert.rejects(listed(made.id, {}, theirs), OpenAI.NotFoundError);
  await assert.rejects(answered(made.id, TEXT, {}, theirs), OpenAI.NotFoundError);
});
