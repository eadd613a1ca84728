// Vercel's AI SDK, which most chat front ends in JavaScript are built on, over both of its OpenAI dialects.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { createOpenAI } from '@ai-sdk/openai';
import { generateText, streamText } from 'ai';

import { all, FIRST, KEY, LONG, MODEL, SECOND, TEXT } from './mesh.mjs';

const [first, second] = [FIRST, SECOND].map((baseURL) => createOpenAI({ baseURL, apiKey: KEY }));

async function converse(dialect, options = {}) {
  const messages = [{ role: 'user', content: 'First.' }];
  const one = streamText({ model: first[dialect](MODEL), messages, maxRetries: 0, ...options });
  assert.equal((await all(one.textStream)).join(''), 'First.');
  messages.push(...(await one.response).messages, { role: 'user', content: 'Second.' });
  const two = streamText({ model: second[dialect](MODEL), messages, maxRetries: 0, ...options });
  assert.equal((await all(two.textStream)).join(''), 'Second.');
  const [before, after] = [await one.usage, await two.usage];
  assert.equal(await two.finishReason, 'stop');
  assert.ok(after.inputTokens > before.totalTokens);
  assert.equal(after.totalTokens, after.inputTokens + after.outputTokens);
}

async function generate(dialect) {
  const options = { model: first[dialect](MODEL), instructions: 'Repeat.', prompt: TEXT, maxRetries: 0 };
  const { text, finishReason, usage } = await generateText(options);
  assert.deepEqual([text, finishReason], [TEXT, 'stop']);
  assert.ok(usage.outputTokens > 0);
}

async function stopAtTheLimit(dialect) {
  const options = { model: first[dialect](MODEL), prompt: LONG, maxOutputTokens: 5, maxRetries: 0 };
  const { finishReason, usage } = await generateText(options);
  assert.deepEqual([finishReason, usage.outputTokens], ['length', 5]);
}

async function abort(dialect) {
  const leaving = new AbortController();
  let aborted = false;
  const result = streamText({
    model: first[dialect](MODEL),
    prompt: LONG,
    maxRetries: 0,
    abortSignal: leaving.signal,
    onAbort: () => { aborted = true; },
  });
  let text = '';
  for await (const piece of result.textStream) {
    text += piece;
    if (text.length > 20) leaving.abort();
  }
  assert.ok(aborted);
  assert.ok(LONG.startsWith(text));
}

async function refuse(dialect) {
  const options = { model: first[dialect](MODEL), prompt: 'a green submarine', maxRetries: 0 };
  await assert.rejects(generateText(options), (error) => {
    assert.equal(error.statusCode, 400);
    assert.equal(error.data.error.code, 'content_policy_violation');
    return true;
  });
}

// It names the answers of stored turns by their items' ids.
test('responses: a conversation of two turns', () => converse('responses'));
test('responses: a conversation that nobody stores', () =>
  converse('responses', { providerOptions: { openai: { store: false } } }));
test('responses: generated at once', () => generate('responses'));
test('responses: the token limit', () => stopAtTheLimit('responses'));
test('responses: aborted midway', () => abort('responses'));
test('responses: an input refused', () => refuse('responses'));
test('chat: a conversation of two turns', () => converse('chat'));
test('chat: generated at once', () => generate('chat'));
test('chat: the token limit', () => stopAtTheLimit('chat'));
test('chat: aborted midway', () => abort('chat'));
test('chat: an input refused', () => refuse('chat'));
