// Prints every finished response of a chatmesh: how it ended, what it used, how it begins. Ctrl-C ends it.
//
// It reads the public topic responses.events in a consumer group: several of these share the work, and one that is
// started again goes on where the group was. After a fault a response may be printed twice (at least once): whoever
// stores them does so by the response's id. docs/events.md has the rules that this program follows.
import { Consumer, stringDeserializers } from '@platformatic/kafka'
import { broker, group, security, topic } from './connection.mjs'
import { finished, shown } from './responses.mjs'

/** What lies at the bottom of an error: the client tells each attempt that failed. */
function reason(error) {
  const inner = error.cause ?? error.errors?.at(-1)
  return inner === undefined ? error.message : reason(inner)
}

const consumer = new Consumer({
  clientId: 'finished-responses',
  groupId: group,
  bootstrapBrokers: broker.split(','),
  deserializers: stringDeserializers,
  ...security(),
})
let stopping = false
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    stopping = true
    await consumer.close(true).catch(() => undefined) // it may be joining its group still
    process.exit()
  })
}
try {
  const epochs = new Map()
  const messages = await consumer.consume({
    topics: [topic],
    mode: 'committed',
    fallbackMode: 'earliest',
    autocommit: false,
    sessionTimeout: 10_000, // the client's own, a minute, is how long nobody reads for one that died
    heartbeatInterval: 3_000,
  })
  for await (const message of messages) {
    const event = finished(message, epochs)
    if (event === undefined) continue
    console.log(shown(event))
    await message.commit()
  }
} catch (error) {
  if (!stopping) {
    console.error(`error: ${reason(error)} (KAFKA_BOOTSTRAP_SERVERS: ${broker})`)
    process.exit(1) // connections to brokers that are gone would keep it alive
  }
}
