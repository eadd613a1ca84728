// Where the broker is, what to read there, how to be let in: from the environment, by chatmesh's names.
import { readFileSync } from 'node:fs'

const env = process.env
const NEEDED = [22, 22] // of Node.js, by @platformatic/kafka
const PROTOCOLS = ['PLAINTEXT', 'SSL', 'SASL_PLAINTEXT', 'SASL_SSL']
const MECHANISMS = ['SCRAM-SHA-512', 'SCRAM-SHA-256', 'PLAIN']

/** Ends the program in one line. */
export function fail(reason) {
  console.error(`error: ${reason}`)
  process.exit(1)
}

const [major, minor] = process.versions.node.split('.').map(Number)
if (major < NEEDED[0] || (major === NEEDED[0] && minor < NEEDED[1])) {
  fail(`this is Node.js ${process.versions.node}, and @platformatic/kafka needs ${NEEDED.join('.')} or newer`)
}

export const broker = env.KAFKA_BOOTSTRAP_SERVERS || '127.0.0.1:9092'
const namespace = env.CHATMESH_NAMESPACE ?? ''
export const topic = `${namespace}responses.events`
export const group = namespace + (env.GROUP || 'consumers.finished-responses')

/** What a variable says, the first of the known ones without it; ends the program where it is none of them. */
function chosen(name, known) {
  const value = env[name] || known[0]
  return known.includes(value) ? value : fail(`${name}: ${value} is none of ${known.join(', ')}`)
}

/** What stands in the file that a variable names; ends the program where nobody can read it. */
function file(name, decoded = (bytes) => bytes) {
  if (!env[name]) return undefined
  try {
    return decoded(readFileSync(env[name]))
  } catch (error) {
    fail(`${name}: ${error.message}: ${env[name]}`)
  }
}

/** Name and password; ends the program where one is not there. */
function user() {
  const username = env.KAFKA_SASL_USERNAME
  const text = new TextDecoder('utf-8', { fatal: true })
  const password = file('KAFKA_SASL_PASSWORD_FILE', (bytes) => text.decode(bytes).trim()) ?? env.KAFKA_SASL_PASSWORD
  if (username && password) return { username, password }
  fail('SASL needs KAFKA_SASL_USERNAME, and KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE')
}

/** The client's options for TLS and SASL. */
export function security() {
  const protocol = chosen('KAFKA_SECURITY_PROTOCOL', PROTOCOLS)
  const options = {}
  if (protocol.endsWith('SSL')) {
    options.tls = {
      ca: file('KAFKA_SSL_CAFILE'),
      cert: file('KAFKA_SSL_CERTFILE'),
      key: file('KAFKA_SSL_KEYFILE') ?? file('KAFKA_SSL_CERTFILE'),
      passphrase: env.KAFKA_SSL_KEY_PASSWORD || undefined,
    }
    if (env.KAFKA_SSL_CHECK_HOSTNAME?.toLowerCase() === 'false') options.tls.checkServerIdentity = () => undefined
  }
  if (protocol.startsWith('SASL')) options.sasl = { mechanism: chosen('KAFKA_SASL_MECHANISM', MECHANISMS), ...user() }
  return options
}
