/**
 * Which process belongs to a service: a small file with its pid, and what tells it from a later
 * process with the same pid, namely when it was started and since which boot that is counted.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'

export interface ProcessRecord {
  readonly pid: number
  /** Clock ticks since boot: field 22 of /proc/<pid>/stat. */
  readonly startTicks: string
  readonly bootId: string
}

export type ProcessState =
  | { readonly kind: 'none' }
  | { readonly kind: 'alive'; readonly pid: number }
  /** It was started and has ended, though nobody stopped it. */
  | { readonly kind: 'ended'; readonly pid: number }
  /** It was started before the machine was restarted. */
  | { readonly kind: 'before-boot' }

/** Writes the record of a process that has just been started. */
export function recordProcess(file: string, pid: number): void {
  const startTicks = startTicksOf(pid)
  // It may be gone already; then any value that no living process has is right.
  const record: ProcessRecord = { pid, startTicks: startTicks ?? '0', bootId: bootId() }
  writeFileSync(`${file}.new`, `${JSON.stringify(record)}\n`)
  renameSync(`${file}.new`, file)
}

export function forgetProcess(file: string): void {
  rmSync(file, { force: true })
}

export function processState(file: string): ProcessState {
  const record = readRecord(file)
  if (record === null) return { kind: 'none' }
  if (record.bootId !== bootId()) return { kind: 'before-boot' }
  const alive = startTicksOf(record.pid) === record.startTicks
  return { kind: alive ? 'alive' : 'ended', pid: record.pid }
}

function readRecord(file: string): ProcessRecord | null {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch {
    return null
  }
  try {
    const { pid, startTicks, bootId: boot } = JSON.parse(text) as Partial<ProcessRecord>
    if (typeof pid !== 'number' || !Number.isInteger(pid) || pid <= 0) return null
    return { pid, startTicks: String(startTicks), bootId: String(boot) }
  } catch {
    // Cut off by a power cut: such a process is not alive.
    return null
  }
}

/** Null when there is no such process, or only its remains that nobody has collected yet. */
function startTicksOf(pid: number): string | null {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return null
  }
  // The second field is the program's name in parentheses, which may hold spaces and parentheses.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [state] = fields
  return state === 'Z' || state === 'X' ? null : (fields[19] ?? null)
}

let cachedBootId: string | undefined

function bootId(): string {
  cachedBootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  return cachedBootId
}
