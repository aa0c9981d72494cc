/** How much history a tenant keeps. */
export interface HistorySettings {
  /** History younger than this is kept. */
  pitrIntervalMs: number
  /** Of that, only so many bytes of WAL; null = however much it is. */
  pitrBytes: number | null
}
