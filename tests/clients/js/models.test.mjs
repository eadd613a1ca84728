// `client.models`.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { all, client, MODEL } from './mesh.mjs';

const openai = client();

test('list', async () => {
  const models = await all(openai.models.list());
  assert.deepEqual(models.map(({ id, object }) => [id, object]), [[MODEL, 'model']]);
});

test('retrieve', async () => {
  assert.equal((await openai.models.retrieve(MODEL)).id, MODEL);
});
