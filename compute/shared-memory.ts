/**
 * What a postmaster that was killed leaves in the machine: a System V segment and files in /dev/shm.
 * A stock server finds them again by its data folder; a compute gets a new folder at each start, so it
 * notes them beside it, and the next start removes what is nobody's any more. Without this a machine
 * whose computes are killed often runs out of segments, of which Linux has 4096.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const NOTE = 'shared-memory.json'
/** Line of postmaster.pid with key and id of the segment (LOCK_FILE_LINE_SHMEM_KEY in pidfile.h). */
const SEGMENT_LINE = 6
const FILE = /\/dev\/shm\/(PostgreSQL\.\d+)/g

export interface SharedMemory {
  postmaster: number
  key: number
  id: number
  /** Names in /dev/shm. */
  files: string[]
}

/** Of a server that is ready; null when it cannot be told. */
export function sharedMemoryOf(dataFolder: string): SharedMemory | null {
  try {
    const lines = readFileSync(join(dataFolder, 'postmaster.pid'), 'utf8').split('\n')
    const postmaster = Number(lines[0])
    const [key, id] = (lines[SEGMENT_LINE] ?? '').trim().split(/\s+/).map(Number)
    if (key === undefined || id === undefined) return null
    const maps = readFileSync(`/proc/${postmaster}/maps`, 'utf8')
    const files = [...new Set([...maps.matchAll(FILE)].map(([, name]) => name as string))]
    return { postmaster, key, id, files }
  } catch {
    return null
  }
}

/** Notes beside the data folder what the server that is ready there has. */
export function noteSharedMemory(folder: string, dataFolder: string): void {
  const memory = sharedMemoryOf(dataFolder)
  if (memory !== null) writeFileSync(join(folder, NOTE), JSON.stringify(memory))
}

/** Removes what the last start noted, unless its postmaster or anybody else still uses it. */
export function removeLeftSharedMemory(folder: string): void {
  let memory: SharedMemory
  try {
    memory = JSON.parse(readFileSync(join(folder, NOTE), 'utf8')) as SharedMemory
  } catch {
    return
  }
  if (isPostgres(memory.postmaster)) return
  removeSharedMemory(memory)
  rmSync(join(folder, NOTE), { force: true })
}

/** The postmaster has ended. Ids are given anew after a reboot, so key and creator must fit as well. */
export function removeSharedMemory({ postmaster, key, id, files }: SharedMemory): void {
  for (const name of files) {
    if (/^PostgreSQL\.\d+$/.test(name)) rmSync(join('/dev/shm', name), { force: true })
  }
  if (!isLeft(readSegments(), { postmaster, key, id })) return
  try {
    execFileSync('ipcrm', ['--shmem-id', String(id)], { stdio: 'ignore' })
  } catch {
    // It was removed meanwhile, or belongs to another user; then it stays as before.
  }
}

/** Pure: whether /proc/sysvipc/shm has the segment, made by that process and attached by none. */
export function isLeft(
  table: string,
  { postmaster, key, id }: { postmaster: number; key: number; id: number },
): boolean {
  for (const line of table.split('\n').slice(1)) {
    const [lineKey, lineId, , , creator, , attached] = line.trim().split(/\s+/).map(Number)
    if (lineId !== id) continue
    return lineKey === key && creator === postmaster && attached === 0
  }
  return false
}

function readSegments(): string {
  try {
    return readFileSync('/proc/sysvipc/shm', 'utf8')
  } catch {
    return ''
  }
}

function isPostgres(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('postgres')
  } catch {
    return false
  }
}
