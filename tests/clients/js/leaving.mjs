// Begins a long answer over the transport that argv names, leaves it at the first text, and stays alive: whether the
// slot is freed must not depend on this process's end. Prints one line when it has left; ends with its standard input.

import { ResponsesWS } from 'openai/resources/responses/ws';

import { client, LONG, MODEL } from './mesh.mjs';

const openai = client();

const LEAVE = {
  async sse() {
    const stream = await openai.responses.create({ model: MODEL, input: LONG, stream: true });
    for await (const event of stream) if (event.type === 'response.output_text.delta') break;
  },
  async json() {
    const leaving = new AbortController();
    const answer = openai.responses.create({ model: MODEL, input: LONG }, { signal: leaving.signal });
    setTimeout(() => leaving.abort(), 500);
    await answer.catch(() => {});
  },
  async chat() {
    const messages = [{ role: 'user', content: LONG }];
    const stream = await openai.chat.completions.create({ model: MODEL, messages, n: 2, stream: true });
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break;
  },
  async websocket() {
    const socket = new ResponsesWS(openai);
    socket.send({ type: 'response.create', model: MODEL, input: LONG });
    await new Promise((resolve) => socket.once('response.output_text.delta', resolve));
    socket.close();
  },
};

await LEAVE[process.argv[2]]();
console.log('left');
process.stdin.resume();
