/** Times and sizes as people write and read them: 7d, 12h, 10GB. */
import { ZenithError } from '#libs/errors.ts'

const TIME_UNITS = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 } as const
const SIZE_UNITS = { B: 1, kB: 1024, MB: 1024 ** 2, GB: 1024 ** 3, TB: 1024 ** 4 } as const

/** Milliseconds. Throws `invalid_argument` for anything but a number with a unit, or 0. */
export function parseDuration(text: string): number {
  const [, number = '', unit = 's'] = /^(\d+(?:\.\d+)?)\s*([smhdw])$/.exec(text.trim()) ?? []
  if (text.trim() === '0') return 0
  if (number !== '') return Math.round(Number(number) * TIME_UNITS[unit as keyof typeof TIME_UNITS])
  throw new ZenithError('invalid_argument', `"${text}" is not a time, as in 7d, 12h or 30m.`)
}

/** Bytes; units as in Postgres' settings. Throws `invalid_argument` for anything else. */
export function parseBytes(text: string): number {
  const [, number = '', unit = 'B'] = /^(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|TB)$/.exec(text.trim()) ?? []
  if (text.trim() === '0') return 0
  if (number !== '') return Math.round(Number(number) * SIZE_UNITS[unit as keyof typeof SIZE_UNITS])
  throw new ZenithError('invalid_argument', `"${text}" is not a size, as in 10GB or 512MB.`)
}

/** In the largest unit of which it is a whole number; of weeks in days, as they are mostly said. */
export function formatDuration(ms: number): string {
  if (ms === 0) return '0'
  const units = Object.entries(TIME_UNITS)
    .filter(([unit]) => unit !== 'w')
    .toReversed()
  const [unit, size] = units.find(([, one]) => ms % one === 0) ?? ['s', 1000]
  return `${ms / size}${unit}`
}

/** A size that was set, as it can be given again: in the largest unit of which it is a whole number. */
export function formatSize(bytes: number): string {
  const units = Object.entries(SIZE_UNITS).toReversed()
  const [unit, size] = units.find(([, one]) => bytes >= one && bytes % one === 0) ?? ['B', 1]
  return `${bytes / size}${unit}`
}
