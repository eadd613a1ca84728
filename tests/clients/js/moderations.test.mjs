// `client.moderations`.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';

import { client, SECOND } from './mesh.mjs';

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
