/** `zenith storage check`: runs the page server's check of object storage and shows what it found. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { assert, ZenithError } from '#libs/errors.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'

const PROGRAM = fileURLToPath(new URL('../../pageserver/check-main.ts', import.meta.url))
const SHOWN = 10
const MIB = 1024 * 1024

export interface StorageCheckOptions extends CommonOptions {
  readonly quick?: boolean
  readonly removeOrphans?: boolean
}

interface ObjectEntry {
  readonly name: string
  readonly sizeBytes: number
}

interface Report {
  readonly tenants: number
  readonly shards: number
  readonly timelines: number
  readonly layers: number
  readonly layerBytes: number
  readonly problems: readonly string[]
  readonly orphans: readonly ObjectEntry[]
  readonly unsettled: readonly ObjectEntry[]
  readonly removedOrphans: number
}

interface Progress {
  readonly layers: number
  readonly of: { readonly layers: number }
}

export async function storageCheck(options: StorageCheckOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.open()
  const [pageserver] = installation.pageservers
  assert(pageserver !== undefined, 'an installation has a pageserver')
  const config = join(pageserver.dir, 'pageserver.toml')
  const args = [PROGRAM, '--config', config]
  if (options.quick === true) args.push('--quick')
  if (options.removeOrphans === true) args.push('--remove-orphans')
  const showsProgress = !context.json && process.stderr.isTTY
  const report = await run(args, ({ layers, of }) => {
    if (showsProgress) process.stderr.write(`\r${layers} of ${of.layers} layers`)
  })
  if (showsProgress) process.stderr.write('\r\x1b[K')
  context.show(report, describe(report, options))
  if (report.problems.length > 0) process.exitCode = 1
}

async function run(args: readonly string[], onProgress: (one: Progress) => void): Promise<Report> {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let report: Report | null = null
  let failure: { error: string; hint?: string } | null = null
  for await (const line of createInterface({ input: child.stdout })) {
    const said = JSON.parse(line) as {
      progress?: Progress
      report?: Report
      error?: string
      hint?: string
    }
    if (said.progress) onProgress(said.progress)
    if (said.report) report = said.report
    if (said.error !== undefined) failure = { error: said.error, ...(said.hint ? said : {}) }
  }
  if (report !== null) return report
  const { error, hint } = failure ?? { error: 'it ended without a word' }
  throw new ZenithError('unavailable', `The check could not be made: ${error}`, {
    hint: hint ?? 'The settings of the page server say where objects are kept.',
  })
}

function describe(report: Report, options: StorageCheckOptions): string {
  const { tenants, shards, timelines, layers, layerBytes, problems, orphans, unsettled } = report
  const how = options.quick === true ? 'looked at' : 'read whole'
  const spread = shards === 0 ? '' : ` in ${shards} shards`
  const lines = [
    `${count(timelines, 'timeline')} of ${count(tenants, 'tenant')}${spread}; ${count(layers, 'layer')} ${how}, ${mib(layerBytes)} MiB`,
    ...problems.map((problem) => `DAMAGED: ${problem}`),
  ]
  if (report.removedOrphans > 0) {
    lines.push(`${report.removedOrphans} objects that nobody needed were deleted, ${size(orphans)}`)
  } else if (orphans.length > 0) {
    lines.push(`${orphans.length} objects that nobody needs, ${size(orphans)}:`)
    lines.push(...orphans.slice(0, SHOWN).map(({ name }) => `  ${name}`))
    if (orphans.length > SHOWN) lines.push(`  and ${orphans.length - SHOWN} more (--json has all)`)
    lines.push('Delete them with "zenith storage check --remove-orphans".')
  }
  if (unsettled.length > 0) {
    lines.push(`${unsettled.length} objects on their way in or out, ${size(unsettled)}`)
  }
  lines.push(problems.length === 0 ? 'All is whole.' : `${problems.length} problems.`)
  return `${lines.join('\n')}\n`
}

function size(objects: readonly ObjectEntry[]): string {
  return `${mib(objects.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0))} MiB`
}

function mib(bytes: number): string {
  return (bytes / MIB).toFixed(1)
}

/** `1 tenant`, `2 tenants`. */
function count(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? '' : 's'}`
}
