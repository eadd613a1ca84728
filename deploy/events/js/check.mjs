// Reads AsyncAPI documents as AsyncAPI's parser does. One JSON line per finding: file, severity (0 error, 1 warning,
// 2 information, 3 hint), code, path, message; then one per document that says how much of it the parser found.
import { readFile } from 'node:fs/promises'
import { Parser } from '@asyncapi/parser'

const parser = new Parser()
for (const file of process.argv.slice(2)) {
  const { document, diagnostics } = await parser.parse(await readFile(file, 'utf8'), { source: file })
  for (const { severity, code, path, message } of diagnostics) {
    console.log(JSON.stringify({ file, severity, code, path: path.join('.'), message }))
  }
  const read = document && {
    channels: document.channels().all().map((channel) => channel.address()),
    operations: document.operations().all().length,
    messages: document.components().messages().all().length,
  }
  console.log(JSON.stringify({ file, read: read ?? null }))
}
