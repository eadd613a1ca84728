// Prints every finished response of a chatmesh: how it ended, what it used, how it begins. Ctrl-C ends it.
//
// It reads the public topic responses.events in a consumer group: several of these share the work, and one that is
// started again goes on where the group was. After a fault a response may be printed twice (at least once): whoever
// stores them does so by the response's id. docs/events.md has the rules that this program follows.
import { setTimeout as passed } from 'node:timers/promises'
import { broker, fail, group, security, topic } from './connection.mjs' // first: it says which Node.js the next one needs
import { Consumer, stringDeserializers } from '@platformatic/kafka'
import { finished, shown } from './responses.mjs'

const LEAVING_MS = 5000
const LEADERLESS_MS = 500

/** What lies at the bottom of an error: the client tells each attempt that failed. */
function reason(error) {
  const inner = error.cause ?? error.errors?.at(-1)
  return inner === undefined ? error.message : reason(inner)
}

/** What to print of a message, undefined if nothing. One that is no record of chatmesh is told and stops nobody. */
function line(message, epochs) {
  try {
    const event = finished(message, epochs)
    return event && shown(event)
  } catch (error) {
    console.error(`leaves out ${message.partition}@${message.offset}: ${error}`)
  }
}

const consumer = new Consumer({
  clientId: 'finished-responses',
  groupId: group,
  bootstrapBrokers: broker.split(','),
  deserializers: stringDeserializers,
  retries: true, // while the broker is away
  ...security(),
})
let stopping = false
async function stop(status) {
  stopping = true
  // It may be joining its group still, or its broker may be away, which will notice by itself.
  await Promise.race([consumer.close(true).catch(() => undefined), passed(LEAVING_MS)])
  process.exit(status)
}
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => stop(0))
/** Ends the program for what it cannot go on after; as it leaves, its connections break under whatever it was about. */
function broken(error) {
  // connections to brokers that are gone would keep it alive
  if (!stopping) fail(`${reason(error)} (KAFKA_BOOTSTRAP_SERVERS: ${broker})`)
}
consumer.on('error', broken) // on its way back into its group, which nobody waits for
process.stdout.on('error', (error) => {
  if (error.code === 'EPIPE') return stop(0) // whoever read this, head say, has enough
  console.error(`error: ${error.message}`)
  stop(1)
})
/** Whether a broker was lost a moment ago: it leads partitions still and is none of the brokers, and the client gives up. */
const leaderless = (error) => reason(error).startsWith('Cannot find broker')
/** Return once every partition has a leader that is there: the client itself would go on with the one that it knows. */
async function led() {
  do {
    await passed(LEADERLESS_MS)
    const { brokers, topics } = await consumer.metadata({ topics: [topic], forceUpdate: true })
    if (topics.get(topic).partitions.every(({ leader }) => brokers.has(leader))) return
  } while (!stopping)
}
/** Print until something breaks. */
async function read(epochs) {
  const messages = await consumer.consume({
    topics: [topic],
    mode: 'committed',
    fallbackMode: 'earliest',
    autocommit: false,
    sessionTimeout: 10_000, // the client's own, a minute, is how long nobody reads for one that died
    heartbeatInterval: 3_000,
  })
  for await (const message of messages) {
    const text = line(message, epochs)
    if (text === undefined) continue
    console.log(text)
    await message.commit()
  }
}
try {
  const epochs = new Map()
  await consumer.metadata({ topics: [topic], retries: 3 }) // a broker that was never met is not waited for
  while (!stopping) {
    await read(epochs).catch((error) => (leaderless(error) ? led() : Promise.reject(error)))
  }
} catch (error) {
  broken(error)
}
