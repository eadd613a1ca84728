// The mesh that these tests talk to, as pytest set it up, and the SDK's client for it.

import OpenAI from 'openai';

const settings = JSON.parse(process.env.CHATMESH_SCENE);

export const { model: MODEL, key: KEY, other_key: OTHER_KEY, few_key: FEW_KEY, long: LONG } = settings;
/** Base URLs of the two gateways. */
export const [FIRST, SECOND] = settings.urls;
export const TEXT = 'The log is the stream.';
export const ENDS = ['response.completed', 'response.incomplete', 'response.failed', 'error'];

/** The official client, with no retries unless asked for. */
export function client(baseURL = FIRST, options = {}) {
  return new OpenAI({ baseURL, apiKey: KEY, maxRetries: 0, timeout: 30_000, ...options });
}

/** Everything that an async iterable gives. */
export async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

/** The text of the deltas among `events`. */
export function said(events) {
  return events
    .filter((event) => event.type === 'response.output_text.delta')
    .map((event) => event.delta)
    .join('');
}

/** 0, 1, 2, … as long as `events`. */
export function counted(events) {
  return events.map((_, index) => index);
}
