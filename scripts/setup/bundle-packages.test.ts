/**
 * Goal: services load the bundles that are made where packages are installed, not the small files that
 * they were made of; when bundling is broken all works, and nothing but this tells.
 * Method: a process of its own notes each file that is loaded for what services have in common.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const USED = ['libs/http/server.ts', 'libs/metrics.ts', 'libs/auth/token.ts', 'libs/config.ts']
const BUNDLED = ['typebox', 'jose', '@prometheus-io/client', 'fastify']
/** Seen: 25. Without bundles: more than a thousand. */
const MOST_FILES = 60

const NOTE_FILES = `
  import { registerHooks } from 'node:module'
  const files = []
  registerHooks({ load: (url, context, next) => (files.push(url), next(url, context)) })
  for (const path of process.argv.slice(1)) await import(path)
  console.log(JSON.stringify(files))
`

test('what services load of these packages are their bundles', () => {
  const script = readFileSync(join(ROOT, 'scripts/setup/bundle-packages.ts'))
  const version = createHash('sha256').update(script).digest('hex').slice(0, 12)
  const paths = USED.map((path) => join(ROOT, path))
  const args = ['--input-type=module', '--eval', NOTE_FILES, ...paths]
  const output = execFileSync(process.execPath, args, { encoding: 'utf8', cwd: ROOT })
  const files = (JSON.parse(output) as string[])
    .filter((url) => url.startsWith('file:'))
    .map((url) => fileURLToPath(url))
  let loaded = 0
  for (const name of BUNDLED) {
    const folder = join(ROOT, 'node_modules', name)
    const own = files.filter((file) => file.startsWith(`${folder}/`))
    const bundle = join(folder, `bundled-${version}`)
    const bundles = own.filter((file) => file.startsWith(`${bundle}/`))
    expect([name, bundles.length > 0]).toEqual([name, true])
    for (const file of own) {
      if (bundles.includes(file)) continue
      // An entry, which passes on what the bundle has.
      expect([file, readFileSync(file, 'utf8').includes(`bundled-${version}`)]).toEqual([
        file,
        true,
      ])
    }
    loaded += own.length
  }
  expect(loaded).toBeLessThan(MOST_FILES)
})
