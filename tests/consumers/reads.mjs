// node reads.mjs RESPONSES_MJS < RECORDS: which fields the sample reads of each record, as JSON, with dots.
// RECORDS is a JSON array of records of responses.events; the answer is a list of lists, in their order.
import { readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'

const { finished, shown } = await import(pathToFileURL(process.argv[2]))
const parse = JSON.parse
let seen

function watched(value, path = []) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return value
  return new Proxy(value, {
    get(target, name) {
      seen.add([...path, name].join('.'))
      return watched(target[name], [...path, name])
    },
    ownKeys() {
      throw new Error('it looks at every field')
    },
  })
}

const records = parse(readFileSync(0, 'utf8'))
JSON.parse = (text) => watched(parse(text))
const found = records.map((record) => {
  seen = new Set()
  const headers = new Map([['ce_type', `chatmesh.${record.type}`]])
  const event = finished({ headers, value: JSON.stringify(record) }, new Map())
  if (event !== undefined) shown(event)
  return [...seen]
})
console.log(JSON.stringify(found))
