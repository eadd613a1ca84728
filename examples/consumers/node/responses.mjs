// Which events of responses.events count, by the rules of docs/events.md, and how one is shown.
const ENDS = new Set(['completed', 'incomplete', 'failed', 'cancelled'])
const KINDS = new Set([...ENDS, 'accepted', 'screening'])
const REMEMBERED = 100_000 // responses

/**
 * The event that ends a response, the first time that it counts; undefined for every other message.
 * `epochs`: response id → the highest epoch seen of it, infinite once it has ended.
 */
export function finished(message, epochs) {
  const kind = message.headers.get('ce_type')?.replace(/^chatmesh\./, '')
  if (!KINDS.has(kind)) return // text on its way, which most messages are: no need to decode it; or a type that came later
  const event = JSON.parse(message.value)
  const { response_id: responseId, epoch = 0 } = event
  if (epoch < (epochs.get(responseId) ?? 0)) return // a copy of its end, or from a writer that another one had replaced
  epochs.set(responseId, ENDS.has(kind) ? Infinity : epoch)
  if (epochs.size > REMEMBERED) epochs.delete(epochs.keys().next().value)
  if (ENDS.has(kind)) return event
}

export function shown({ response_id: responseId, type, usage, text }) {
  const beginning = JSON.stringify([...text].slice(0, 60).join(''))
  return `${responseId} ${type} ${usage.input_tokens}+${usage.output_tokens} tokens ${beginning}`
}
