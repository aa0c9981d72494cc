/** An election among the safekeepers of a timeline without a compute, in a process of its own. */
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { type FileHandle, open, unlink } from 'node:fs/promises'
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
  await using file = await nameless()
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
  await file.writeFile(JSON.stringify(spec))
  const code = await run(process.execPath, [SYNC_PROGRAM, '--spec', '/dev/fd/3'], file.fd)
  if (code !== 0) log.warn({ timelineId, code }, 'syncing safekeepers failed')
}

/** A file that is gone when nobody has it open any more, however we end: what it holds is secret. */
async function nameless(): Promise<FileHandle> {
  const path = join(tmpdir(), `zenith-sync-${randomUUID()}`)
  const file = await open(path, 'wx+', 0o600)
  await unlink(path)
  return file
}

/** `fd` is its descriptor 3. */
function run(program: string, args: string[], fd: number): Promise<number | null> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit', fd] })
    const timer = setTimeout(() => child.kill('SIGKILL'), SYNC_TIMEOUT_MS)
    child.on('error', reject)
    child.on('exit', (code) => {
      clearTimeout(timer)
      resolve(code)
    })
  })
}
