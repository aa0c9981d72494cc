/**
 * PostGIS' own tests, by its own driver (regress/run_test.pl), which its `make installcheck` calls:
 * core, loader, dumper and topology, on the extensions as installed.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { giveTo, runAs } from '#libs/system-user.ts'
import type { ExtensionResults, Surroundings } from './run-extension.ts'

/** Folders with tests, and the driver's options for each. */
const PARTS: readonly { folder: string; options: readonly string[]; database: string }[] = [
  // Kept at the end, for whoever looks at pages.
  { folder: 'regress', options: ['--nodrop'], database: 'postgis_core' },
  // Here the driver also removes the extensions, and looks for what they leave.
  { folder: 'topology/test', options: ['--topology'], database: 'postgis_topology' },
]

export async function runPostgisTests(around: Surroundings): Promise<ExtensionResults> {
  const passed: string[] = []
  const failed: string[] = []
  const diffs = new Map<string, string>()
  for (const { folder, options, database } of PARTS) {
    const at = join(around.ready.source, folder)
    const all = await makeVariable(at, 'TESTS')
    const { only } = around
    const tests = all.filter((test) => only.length === 0 || only.includes(basename(test)))
    if (tests.length === 0) continue
    const hooks = await makeVariable(at, 'RUNTESTFLAGS_INTERNAL')
    const scratch = join(around.dir, folder.replaceAll('/', '-'))
    mkdirSync(scratch)
    giveTo(scratch)
    const words = ['--extensions', ...options, ...hooks, ...tests]
    const output = await runDriver(at, words, scratch, around, database)
    const results = parseDriverOutput(output)
    // It counts its own steps as well, such as the removal of the extension.
    const counted = Number(/^Run tests: (\d+)$/m.exec(output)?.[1] ?? -1)
    if (results.length !== counted || counted < tests.length) {
      throw new Error(
        `${folder}: ${results.length} results of ${tests.length} tests:\n${output.slice(-4000)}`,
      )
    }
    for (const { test, ok, diffFile } of results) {
      const name = `postgis/${test}`
      if (ok) passed.push(name)
      else failed.push(name)
      if (diffFile !== null && existsSync(diffFile)) {
        diffs.set(name, readFileSync(diffFile, 'utf8'))
      }
    }
  }
  return { passed, failed, diffs }
}

/** ` core/affine .. ok in 35 ms`, or ` core/affine .. failed (diff expected obtained: /tmp/x)`. */
export function parseDriverOutput(
  output: string,
): { test: string; ok: boolean; diffFile: string | null }[] {
  const results = []
  for (const line of output.split('\n')) {
    const match = /^\s*(\S+) \.+\s*(?:\S.*)?\b(ok|failed)\b(.*)$/.exec(line)
    if (match === null) continue
    const [, test = '', word, rest = ''] = match
    const diffFile = /diff expected obtained: ([^)]+)\)/.exec(rest)?.[1] ?? null
    results.push({ test, ok: word === 'ok', diffFile })
  }
  return results
}

/** The words of a variable, as make computes it from the makefile. */
async function makeVariable(folder: string, name: string): Promise<string[]> {
  const print = `--eval=print-it: ; @:$(info zenith:$(${name}))`
  const output = await run('make', ['-s', '-n', print, 'print-it'], { cwd: folder })
  const value = /^zenith:(.*)$/m.exec(output)?.[1] ?? ''
  return value.split(/\s+/).filter((word) => word !== '')
}

function runDriver(
  folder: string,
  words: readonly string[],
  scratch: string,
  { ready, server }: Surroundings,
  database: string,
): Promise<string> {
  const { host, port, user } = server.address()
  return run('perl', [join(ready.source, 'regress', 'run_test.pl'), ...words], {
    cwd: folder,
    env: {
      PATH: `${join(ready.prefix, 'bin')}:/usr/bin:/bin`,
      HOME: scratch,
      PGHOST: host,
      PGPORT: String(port),
      PGUSER: user,
      PGIS_REG_TMPDIR: scratch,
      POSTGIS_REGRESS_DB: database,
      POSTGIS_TOP_BUILD_DIR: ready.source,
    },
    ...runAs(),
  })
}

/** Resolves with all output whatever the exit code: the driver's is that of its tests. */
function run(
  program: string,
  words: readonly string[],
  options: { cwd: string; env?: NodeJS.ProcessEnv; uid?: number; gid?: number },
): Promise<string> {
  const child = spawn(program, words, { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
  }
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', () => resolve(output))
  })
}
