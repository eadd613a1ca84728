// The SDK's error classes, headers, retries and time limits.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';

import { client, FEW_KEY, LONG, MODEL, OTHER_KEY, SECOND, TEXT } from './mesh.mjs';

const NOBODYS = 'resp_019c0f3a7b1070018a5f3c2e1d4b6a98';
const openai = client();
const ask = (fields) => openai.responses.create({ model: MODEL, input: TEXT, ...fields });

const TABLE = [
  ['a value out of range', () => ask({ temperature: 3 }), OpenAI.BadRequestError, null],
  ['an unknown field', () => ask({ colour: 'red' }), OpenAI.BadRequestError, 'unknown_parameter'],
  ['a prompt too long', () => ask({ input: 'word '.repeat(20_000) }), OpenAI.BadRequestError, 'context_length_exceeded'],
  ['an input refused', () => ask({ input: 'a green submarine' }), OpenAI.BadRequestError, 'content_policy_violation'],
  ['an input refused to a stream', () => ask({ input: 'a green submarine', stream: true }), OpenAI.BadRequestError,
    'content_policy_violation'],
  ['an unknown parent', () => ask({ previous_response_id: NOBODYS }), OpenAI.BadRequestError,
    'previous_response_not_found'],
  ['a tool', () => ask({ tools: [{ type: 'web_search' }] }), OpenAI.BadRequestError, 'unsupported_parameter'],
  ['an unknown model', () => ask({ model: 'gpt-none' }), OpenAI.NotFoundError, 'model_not_found'],
  ['an unknown response', () => openai.responses.retrieve(NOBODYS), OpenAI.NotFoundError, null],
  ['an unknown route', () => openai.embeddings.create({ model: MODEL, input: TEXT }), OpenAI.NotFoundError, null],
  ['an unknown key', () => client(undefined, { apiKey: 'sk-nobody' }).models.list(), OpenAI.AuthenticationError,
    'invalid_api_key'],
];

test('each bad call raises its class', async (t) => {
  for (const [name, call, kind, code] of TABLE) {
    await t.test(name, async () => {
      await assert.rejects(call, (error) => {
        assert.equal(error.constructor, kind);
        assert.deepEqual(Object.keys(error.error).sort(), ['code', 'message', 'param', 'type']);
        assert.equal(error.type, 'invalid_request_error');
        assert.ok(error.requestID);
        if (code !== null) assert.equal(error.code, code);
        return true;
      });
    });
  }
});

test("another tenant's response does not exist", async () => {
  const ours = await ask({});
  const theirs = client(SECOND, { apiKey: OTHER_KEY });
  await assert.rejects(theirs.responses.retrieve(ours.id), OpenAI.NotFoundError);
  await assert.rejects(theirs.responses.cancel(ours.id), OpenAI.NotFoundError);
});

test('headers of a result', async () => {
  const { data, response, request_id } = await ask({}).withResponse();
  assert.equal(data.output_text, TEXT);
  assert.equal(response.headers.get('x-request-id'), request_id);
});

test('a limit per minute, over both gateways', async () => {
  const [here, there] = [undefined, SECOND].map((url) => client(url, { apiKey: FEW_KEY }));
  for (const sdk of [here, there]) assert.ok(await sdk.responses.create({ model: MODEL, input: TEXT }));
  await assert.rejects(here.responses.create({ model: MODEL, input: TEXT }), (error) => {
    assert.equal(error.constructor, OpenAI.RateLimitError);
    assert.equal(error.code, 'rate_limit_exceeded');
    assert.ok(Number(error.headers.get('retry-after')) > 0);
    assert.equal(error.headers.get('x-ratelimit-remaining-requests'), '0');
    return true;
  });
});

test('a time limit of the client', async () => {
  const hurried = client(undefined, { timeout: 500 });
  await assert.rejects(
    hurried.responses.create({ model: MODEL, input: LONG }),
    OpenAI.APIConnectionTimeoutError,
  );
});

test('a lost connection is tried again', async () => {
  let tries = 0;
  const flaky = client(undefined, {
    maxRetries: 2,
    fetch: (...call) => {
      tries += 1;
      return tries === 1 ? Promise.reject(new TypeError('the line is down')) : fetch(...call);
    },
  });
  assert.equal((await flaky.responses.create({ model: MODEL, input: TEXT })).output_text, TEXT);
  assert.equal(tries, 2);
});

test('an abort signal', async () => {
  const leaving = new AbortController();
  const answer = openai.responses.create({ model: MODEL, input: LONG }, { signal: leaving.signal });
  leaving.abort();
  await assert.rejects(answer, OpenAI.APIUserAbortError);
});
