/** An election among the safekeepers of a timeline without a compute, in a process of its own. */
import { spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import type { TimelineRecord } from './records.ts'
import type { Registry } from './registry.ts'
import type { Tokens } from './tokens.ts'

const SYNC_TIMEOUT_MS = 60_000
const SYNC_PROGRAM = fileURLToPath(new URL('../compute/sync-main.ts', import.meta.url))

export interface SyncContext {
  registry: Registry
  tokens: Tokens
  log: Logger
}

/** Brings a quorum to one position and commits it. A compute that still writes has to give way. */
export async function syncSafekeepers(
  { registry, tokens, log }: SyncContext,
  timeline: TimelineRecord,
): Promise<void> {
  const { tenantId, timelineId } = timeline
  const newSafekeepers = await registry.newMembers(timeline)
  const folder = await mkdtemp(join(tmpdir(), 'zenith-sync-'))
  try {
    const file = join(folder, 'spec.json')
    const spec = {
      tenantId,
      timelineId,
      safekeepers: await registry.members(timeline),
      ...(newSafekeepers === null ? {} : { newSafekeepers }),
      membershipGeneration: timeline.membershipGeneration,
      safekeeperAccess: await tokens.forCompute('sync', 'primary', {
        tenantId: parseTenantId(tenantId),
        timelineId: parseTimelineId(timelineId),
      }),
      pgVersion: timeline.pgVersion,
      systemId: timeline.systemId,
    }
    await writeFile(file, JSON.stringify(spec), { mode: 0o600 })
    const code = await run(process.execPath, [SYNC_PROGRAM, '--spec', file])
    if (code !== 0) log.warn({ timelineId, code }, 'syncing safekeepers failed')
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

function run(program: string, args: string[]): Promise<number | null> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] })
    const timer = setTimeout(() => child.kill('SIGKILL'), SYNC_TIMEOUT_MS)
    child.on('error', reject)
    child.on('exit', (code) => {
      clearTimeout(timer)
      resolve(code)
    })
  })
}
