/**
 * Settings of a compute that pg_control repeats. A base backup carries a pg_control with what the
 * timeline's last server had, at first these values, and the supervisor writes the same ones to
 * postgresql.conf; where the owner chose others, the first start logs a PARAMETER_CHANGE record
 * (XLogReportParameters in xlog.c), and later ones find them in pg_control.
 */

/** `wal_level` as Postgres numbers it (access/xlog.h, WalLevel). */
export const WalLevel = { minimal: 0, replica: 1, logical: 2 } as const
export type WalLevel = (typeof WalLevel)[keyof typeof WalLevel]

export interface ComputeSettings {
  walLevel: WalLevel
  walLogHints: boolean
  maxConnections: number
  maxWorkerProcesses: number
  maxWalSenders: number
  maxPreparedTransactions: number
  maxLocksPerTransaction: number
  trackCommitTimestamp: boolean
}

export const COMPUTE_SETTINGS: Readonly<ComputeSettings> = {
  walLevel: WalLevel.replica,
  walLogHints: false,
  maxConnections: 100,
  maxWorkerProcesses: 8,
  maxWalSenders: 10,
  maxPreparedTransactions: 64,
  maxLocksPerTransaction: 64,
  trackCommitTimestamp: false,
}

const WAL_LEVEL_NAMES = ['minimal', 'replica', 'logical'] as const

/** The lines of postgresql.conf that give a server these settings. */
export function computeSettingsConf(settings: ComputeSettings = COMPUTE_SETTINGS): string {
  const word = (on: boolean) => (on ? 'on' : 'off')
  return [
    `wal_level = ${WAL_LEVEL_NAMES[settings.walLevel]}`,
    `wal_log_hints = ${word(settings.walLogHints)}`,
    `max_connections = ${settings.maxConnections}`,
    `max_worker_processes = ${settings.maxWorkerProcesses}`,
    `max_wal_senders = ${settings.maxWalSenders}`,
    `max_prepared_transactions = ${settings.maxPreparedTransactions}`,
    `max_locks_per_transaction = ${settings.maxLocksPerTransaction}`,
    `track_commit_timestamp = ${word(settings.trackCommitTimestamp)}`,
    '',
  ].join('\n')
}
