/** JSON logs on stderr, one object per line; the launcher decides which file they go to. */
import { type Logger, pino } from 'pino'

export type { Logger }

/** Creates the root logger of a process. `ZENITH_LOG_LEVEL` sets the level (default `info`). */
export function createLogger(service: string): Logger {
  return pino(
    {
      base: { service, pid: process.pid },
      level: process.env['ZENITH_LOG_LEVEL'] ?? 'info',
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    pino.destination({ dest: 2, sync: true }),
  )
}
