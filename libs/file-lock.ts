/**
 * A lock between processes, kept by the kernel on an open file: it ends when the holder closes the
 * file or dies, however it dies, so there are no stale locks. Node has no flock of its own; the
 * small program of util-linux locks the file description that we hand it as its descriptor 3, and
 * the lock stays with that description, so with us, after the program has gone.
 */
import { spawn, spawnSync } from 'node:child_process'
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  writeSync,
} from 'node:fs'
import { ZenithError } from './errors.ts'

export interface FileLock {
  /** The locked descriptor. Children that get it in their `stdio` hold the lock as well. */
  readonly fd: number
  release(): void
}

export interface FileLockOptions {
  /** What the holder does, for the messages of those who wait: `zenith start`. */
  readonly purpose: string
  /** How long to wait for another holder; 0 refuses at once. */
  readonly timeoutMs: number
  /** Called once, with what the holder wrote (purpose and pid), when there is something to wait for. */
  readonly onWait?: (holder: string) => void
}

/** Throws `conflict`, naming the holder, when the lock is not free in time. */
export async function lockFile(file: string, options: FileLockOptions): Promise<FileLock> {
  const deadline = Date.now() + options.timeoutMs
  for (;;) {
    // Not truncated on opening: the holder's text must stay readable for those who wait.
    const fd = openSync(file, 'a+', 0o644)
    try {
      if (!tryLock(fd)) {
        const holder = readHolder(file)
        if (options.timeoutMs > 0) options.onWait?.(holder)
        if (!(await waitForLock(fd, deadline - Date.now()))) throw busy(file, holder)
      }
      // Somebody may have removed the file while we waited; a lock on it would protect nothing.
      if (isSameFile(fd, file)) return held(fd, options.purpose)
      closeSync(fd)
    } catch (error) {
      closeSync(fd)
      throw error
    }
  }
}

function held(fd: number, purpose: string): FileLock {
  ftruncateSync(fd)
  writeSync(fd, `${purpose} (process ${process.pid})\n`)
  let released = false
  const release = (): void => {
    if (released) return
    released = true
    ftruncateSync(fd)
    closeSync(fd)
  }
  return { fd, release }
}

function tryLock(fd: number): boolean {
  const stdio = ['ignore', 'ignore', 'inherit', fd] as const
  const { status, error } = spawnSync('flock', ['--nonblock', '3'], { stdio: [...stdio] })
  if (error !== undefined) {
    throw new ZenithError('precondition_failed', `The program flock cannot run: ${error.message}`, {
      hint: 'It is part of the Debian package util-linux.',
    })
  }
  return status === 0
}

function waitForLock(fd: number, timeoutMs: number): Promise<boolean> {
  if (timeoutMs <= 0) return Promise.resolve(false)
  const args = ['--timeout', (timeoutMs / 1000).toFixed(3), '3']
  const waiter = spawn('flock', args, { stdio: ['ignore', 'ignore', 'inherit', fd] })
  return new Promise((resolve, reject) => {
    waiter.on('error', reject)
    waiter.on('exit', (code) => resolve(code === 0))
  })
}

function busy(file: string, holder: string): ZenithError {
  const who = holder === '' ? 'Another process' : holder
  return new ZenithError('conflict', `${who} holds ${file}.`, {
    hint: 'Wait until it has ended, then repeat the command.',
  })
}

function readHolder(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim()
  } catch {
    return ''
  }
}

function isSameFile(fd: number, file: string): boolean {
  const there = statSync(file, { throwIfNoEntry: false })
  return there !== undefined && there.ino === fstatSync(fd).ino
}
