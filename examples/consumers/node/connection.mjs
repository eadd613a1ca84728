// Where the broker is, what to read there, how to be let in: from the environment, by chatmesh's names.
import { readFileSync } from 'node:fs'

const env = process.env
export const broker = env.KAFKA_BOOTSTRAP_SERVERS || '127.0.0.1:9092'
const namespace = env.CHATMESH_NAMESPACE ?? ''
export const topic = `${namespace}responses.events`
export const group = namespace + (env.GROUP || 'consumers.finished-responses')

/** What stands in the file that a variable names; ends the program where nobody can read it. */
function file(name) {
  if (!env[name]) return undefined
  try {
    return readFileSync(env[name], 'utf8')
  } catch (error) {
    console.error(`error: ${name}: ${error.message}`)
    process.exit(1)
  }
}

/** The client's options for TLS and SASL. */
export function security() {
  const protocol = env.KAFKA_SECURITY_PROTOCOL || 'PLAINTEXT'
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
  if (protocol.startsWith('SASL')) {
    options.sasl = {
      mechanism: env.KAFKA_SASL_MECHANISM || 'SCRAM-SHA-512',
      username: env.KAFKA_SASL_USERNAME,
      password: file('KAFKA_SASL_PASSWORD_FILE')?.trim() ?? env.KAFKA_SASL_PASSWORD,
    }
  }
  return options
}
