/** Moments as Postgres counts and writes them. */
import { ZenithError } from '../errors.ts'

const EPOCH_MS = 946_684_800_000
const TEXT =
  /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,6}))?\s*(Z|[+-]\d\d(?::?\d\d)?)?$/i

/**
 * Microseconds since 2000-01-01 UTC of a moment as ISO 8601 or psql writes it:
 * `2026-11-21T15:28:08Z`, `2026-11-21 16:28:08.123456+01`. Without a time zone it is UTC. Throws
 * `invalid_argument` for anything else.
 */
export function parseTimestamp(text: string): number {
  const [, date, time, fraction = '', zone = 'Z'] = TEXT.exec(text.trim()) ?? []
  const offset = zone.length === 3 ? `${zone}:00` : zone.replace(/^(.\d\d)(\d\d)$/, '$1:$2')
  const ms = date === undefined ? Number.NaN : Date.parse(`${date}T${time}${offset.toUpperCase()}`)
  if (Number.isNaN(ms)) {
    throw new ZenithError('invalid_argument', `"${text}" is not a moment.`, {
      hint: 'Write it as 2026-11-21T15:28:08Z, or as psql shows it: "2026-11-21 16:28:08.5+01".',
    })
  }
  return (ms - EPOCH_MS) * 1000 + Number(fraction.padEnd(6, '0'))
}

/** The moment as ISO 8601 in UTC, to the microsecond; `parseTimestamp` reads it back. */
export function formatTimestamp(timeUs: number): string {
  const ms = Math.floor(timeUs / 1000)
  const micros = String(timeUs - ms * 1000).padStart(3, '0')
  return new Date(ms + EPOCH_MS).toISOString().replace('Z', `${micros}Z`)
}

/** Microseconds since 2000-01-01 UTC of now. */
export function timestampNow(): number {
  return (Date.now() - EPOCH_MS) * 1000
}
