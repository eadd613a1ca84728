// What a page in a browser can do: no headers on a WebSocket, an Origin on everything. The WebSocket is the platform's
// own (Node.js has the browsers' one), and the SDK is told that it runs in a browser.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { WebSocket as NodeSocket } from 'ws';

import { all, client, counted, ENDS, FIRST, KEY, MODEL, said, TEXT } from './mesh.mjs';

const ADDRESS = `${FIRST.replace('http', 'ws')}/responses`;
const PAGE = 'http://localhost:3000';
const STRANGER = 'https://stranger.example';

/** Resolves when the socket is open; rejects when the handshake fails, of which pages learn no more than that. */
function opened(socket) {
  return new Promise((resolve, reject) => {
    socket.addEventListener('open', () => resolve(socket));
    socket.addEventListener('error', () => reject(new Error('no handshake')));
  });
}

/** The events of one answer over a platform socket. */
function answer(socket, input) {
  return new Promise((resolve) => {
    const events = [];
    socket.addEventListener('message', ({ data }) => {
      events.push(JSON.parse(data));
      if (ENDS.includes(events.at(-1).type)) resolve(events);
    });
    socket.send(JSON.stringify({ type: 'response.create', model: MODEL, input }));
  });
}

test("a socket with the key among its subprotocols, as OpenAI's browser clients send it", async () => {
  const socket = await opened(new WebSocket(ADDRESS, ['realtime', `openai-insecure-api-key.${KEY}`]));
  assert.equal(socket.protocol, 'realtime');
  const events = await answer(socket, TEXT);
  assert.deepEqual(events.map((event) => event.sequence_number), counted(events));
  assert.equal(said(events), TEXT);
  socket.close();
});

test('a socket with a beta subprotocol, organization and project beside the key', async () => {
  const protocols = [
    `openai-insecure-api-key.${KEY}`, 'openai-organization.org-1', 'openai-project.proj-1', 'openai-beta.realtime-v1',
  ];
  const socket = await opened(new WebSocket(ADDRESS, protocols));
  assert.equal(socket.protocol, 'openai-beta.realtime-v1');
  assert.equal(said(await answer(socket, TEXT)), TEXT);
  socket.close();
});

test('a socket with a key that nobody knows, or none', async () => {
  for (const protocols of [['realtime', 'openai-insecure-api-key.sk-nobody'], ['realtime'], []]) {
    await assert.rejects(opened(new WebSocket(ADDRESS, protocols)), /no handshake/);
  }
});

test('a socket resumes by its address', async () => {
  const created = await client().responses.create({ model: MODEL, input: TEXT });
  const query = `response_id=${created.id}&starting_after=3`;
  const protocols = ['realtime', `openai-insecure-api-key.${KEY}`];
  const socket = new WebSocket(`${ADDRESS}?${query}`, protocols);
  const events = await new Promise((resolve) => {
    const seen = [];
    socket.addEventListener('message', ({ data }) => {
      seen.push(JSON.parse(data));
      if (ENDS.includes(seen.at(-1).type)) resolve(seen);
    });
  });
  assert.equal(events[0].sequence_number, 4);
  assert.equal(said(events), TEXT);
  socket.close();
});

test('a socket of a page that is not let in', async () => {
  const headers = { authorization: `Bearer ${KEY}` };
  const status = (origin) => new Promise((resolve) => {
    const socket = new NodeSocket(ADDRESS, { origin, headers });
    socket.on('open', () => { socket.close(); resolve(101); });
    socket.on('unexpected-response', (_, reply) => { socket.terminate(); resolve(reply.statusCode); });
    socket.on('error', () => {}); // terminate() before the handshake's end
  });
  assert.deepEqual([await status(PAGE), await status(STRANGER)], [101, 403]);
});

test('the SDK in a page: preflight, reply and stream', async () => {
  const asked = [];
  const sdk = client(FIRST, {
    dangerouslyAllowBrowser: true,
    // What a browser does by itself: ask first, name the page, and look at what the server lets pages read.
    fetch: async (url, init) => {
      const names = [...new Headers(init.headers).keys()].filter((name) => name !== 'accept').sort().join(',');
      const preflight = await fetch(url, {
        method: 'OPTIONS',
        headers: {
          origin: PAGE, 'access-control-request-method': init.method, 'access-control-request-headers': names,
        },
      });
      assert.ok(preflight.ok, `preflight: ${preflight.status}`);
      assert.equal(preflight.headers.get('access-control-allow-origin'), PAGE);
      assert.ok(preflight.headers.get('access-control-allow-methods').includes(init.method));
      const allowed = preflight.headers.get('access-control-allow-headers').split(/, */);
      for (const name of names.split(',')) assert.ok(allowed.includes(name), `${name} is not allowed`);
      const headers = new Headers(init.headers);
      headers.set('origin', PAGE);
      const reply = await fetch(url, { ...init, headers });
      assert.equal(reply.headers.get('access-control-allow-origin'), PAGE);
      assert.match(reply.headers.get('access-control-expose-headers'), /x-request-id/);
      asked.push(names);
      return reply;
    },
  });
  assert.equal((await sdk.responses.create({ model: MODEL, input: TEXT })).output_text, TEXT);
  const events = await all(await sdk.responses.create({ model: MODEL, input: TEXT, stream: true }));
  assert.equal(said(events), TEXT);
  const response = await sdk.responses.retrieve(events[0].response.id);
  assert.equal(response.output_text, TEXT);
  assert.match(asked[0], /authorization.*x-stainless/);
});

test('a request of a page that is not let in', async () => {
  const headers = { origin: STRANGER, authorization: `Bearer ${KEY}` };
  const reply = await fetch(`${FIRST}/models`, { headers });
  assert.equal(reply.status, 403);
  assert.equal((await reply.json()).error.code, 'origin_not_allowed');
  assert.equal(reply.headers.get('access-control-allow-origin'), null);
});
