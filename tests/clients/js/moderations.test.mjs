// `client.moderations`, and moderation that other calls ask for.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';

import { all, client, MODEL, SECOND, TEXT } from './mesh.mjs';

const openai = client();
const FINE = 'How do I bake bread?';
const BAD = 'Where is the green submarine?';

test('a string', async () => {
  const { id, model, results } = await openai.moderations.create({ input: BAD });
  assert.match(id, /^modr_[0-9a-f]{32}$/);
  assert.match(model, /^test-1@/);
  const [{ flagged, categories, category_scores: scores, category_applied_input_types: types }] = results;
  assert.equal(flagged, true);
  assert.equal(Object.keys(categories).length, 13);
  assert.deepEqual(Object.keys(categories).filter((name) => categories[name]), ['illicit']);
  assert.deepEqual([scores.illicit, scores['illicit/violent']], [1, 0]);
  assert.deepEqual(types.illicit, ['text']);
});

test('a list, at the other gateway', async () => {
  const { results } = await client(SECOND).moderations.create({ input: [FINE, BAD], model: 'omni-moderation-latest' });
  assert.deepEqual(results.map(({ flagged }) => flagged), [false, true]);
});

test('text parts', async () => {
  const input = [FINE, BAD].map((text) => ({ type: 'text', text }));
  const { results } = await openai.moderations.create({ input });
  assert.deepEqual(results.map(({ flagged }) => flagged), [true]);
});

test('an image is refused by name', async () => {
  const input = [{ type: 'image_url', image_url: { url: 'https://example.com/a.png' } }];
  await assert.rejects(openai.moderations.create({ input }), (error) => {
    assert.equal(error.constructor, OpenAI.BadRequestError);
    assert.equal(error.param, 'input[0].type');
    return true;
  });
});

test('the raw response', async () => {
  const { data, response, request_id: id } = await openai.moderations.create({ input: FINE }).withResponse();
  assert.equal(data.results[0].flagged, false);
  assert.equal(response.headers.get('x-request-id'), id);
});

test('inside a response', async () => {
  const moderation = { model: 'omni-moderation-latest' };
  const events = await all(await openai.responses.create({ model: MODEL, input: TEXT, moderation, stream: true }));
  assert.equal(events[0].response.moderation, null);
  const { input, output } = events.at(-1).response.moderation;
  assert.deepEqual([input.type, input.flagged], ['moderation_result', false]);
  assert.deepEqual([output.type, output.flagged], ['moderation_result', false]);
});

test('inside a completion', async () => {
  const moderation = { model: 'omni-moderation-latest' };
  const messages = [{ role: 'user', content: TEXT }];
  const whole = await openai.chat.completions.create({ model: MODEL, messages, moderation });
  assert.deepEqual(whole.moderation.output.results.map(({ flagged }) => flagged), [false]);
  const chunks = await all(await openai.chat.completions.create({ model: MODEL, messages, moderation, stream: true }));
  assert.equal(chunks.filter((chunk) => chunk.moderation).length, 1);
  assert.deepEqual(chunks.at(-1).choices, []);
});
