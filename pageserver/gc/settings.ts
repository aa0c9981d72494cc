/** How much history a tenant keeps. */
const DAY_MS = 86_400_000

export interface HistorySettings {
  /** History younger than this is kept. */
  pitrIntervalMs: number
  /** Of that, only so many bytes of WAL; null = however much it is. */
  pitrBytes: number | null
}

export const DEFAULT_HISTORY: HistorySettings = { pitrIntervalMs: 7 * DAY_MS, pitrBytes: null }
