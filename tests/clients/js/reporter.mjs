// Tells pytest what became of each top-level test: one JSON object a line.

export default async function* reporter(source) {
  const failures = [];
  for await (const { type, data } of source) {
    if (type === 'test:stderr' || type === 'test:stdout') continue;
    if (type !== 'test:pass' && type !== 'test:fail') continue;
    const error = data.details?.error;
    const cause = error?.cause ?? error;
    if (type === 'test:fail') failures.push(`${data.name}: ${cause?.stack ?? cause?.message ?? cause ?? 'failed'}`);
    if (data.nesting > 0) continue;
    const skipped = data.skip !== undefined || data.todo !== undefined;
    const row = { name: data.name, passed: type === 'test:pass' && !skipped, detail: failures.splice(0).join('\n') };
    yield `${JSON.stringify(row)}\n`;
  }
}
