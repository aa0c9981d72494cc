/** The end of a service's log, for people: JSON lines become sentences, other lines stay. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'

const TAIL_BYTES = 64 * 1024
const LEVELS: Readonly<Record<number, string>> = {
  10: 'trace',
  20: 'debug',
  30: 'info',
  40: 'warn',
  50: 'error',
  60: 'fatal',
}

/** Empty lines, and the frames of a stack, which would push out the message above them. */
const NOISE = /^\s*$|^\s+at |^\s*[{}]\s*$/

/** The last lines of a log file, from the given byte on; none when there is no log. */
export function logTail(
  file: string,
  options: { maxLines?: number; from?: number } = {},
): string[] {
  const { maxLines = 10, from = 0 } = options
  let fd: number
  try {
    fd = openSync(file, 'r')
  } catch {
    return []
  }
  try {
    const { size } = fstatSync(fd)
    const start = Math.max(0, from, size - TAIL_BYTES)
    const buffer = Buffer.alloc(Math.max(0, size - start))
    readSync(fd, buffer, 0, buffer.length, start)
    const lines = buffer.toString('utf8').split('\n')
    // The first one is cut when more was left out than what came before.
    if (start > from) lines.shift()
    const shown = lines.filter((line) => !NOISE.test(line)).slice(-maxLines)
    return shown.map(readableLine)
  } finally {
    closeSync(fd)
  }
}

/** `{"level":50,"time":...,"msg":...}` as `11:22:33 error start failed: port in use`. */
export function readableLine(line: string): string {
  if (!line.startsWith('{')) return line
  try {
    const { level, time, msg, err } = JSON.parse(line) as {
      level?: number | string
      time?: number | string
      msg?: string
      err?: { message?: string }
    }
    const clock = new Date(time ?? Number.NaN)
    const at = Number.isNaN(clock.getTime()) ? '' : `${clock.toISOString().slice(11, 19)} `
    const name = typeof level === 'number' ? (LEVELS[level] ?? String(level)) : (level ?? '')
    const reason = err?.message === undefined || err.message === msg ? '' : `: ${err.message}`
    return `${at}${name} ${msg ?? ''}${reason}`.trim()
  } catch {
    return line
  }
}
