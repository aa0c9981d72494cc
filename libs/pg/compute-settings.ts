/**
 * Settings of a compute that pg_control repeats. A base backup carries a pg_control with exactly
 * these values, and the supervisor writes the same ones to postgresql.conf; where they differ,
 * start-up logs a PARAMETER_CHANGE record (XLogReportParameters in xlog.c), which is harmless for
 * correctness but makes every start write WAL.
 */

/** `wal_level` as Postgres numbers it (access/xlog.h, WalLevel). */
export const WalLevel = { minimal: 0, replica: 1, logical: 2 } as const
export type WalLevel = (typeof WalLevel)[keyof typeof WalLevel]

export const COMPUTE_SETTINGS = {
  walLevel: WalLevel.replica,
  walLogHints: false,
  maxConnections: 100,
  maxWorkerProcesses: 8,
  maxWalSenders: 10,
  maxPreparedTransactions: 64,
  maxLocksPerTransaction: 64,
  trackCommitTimestamp: false,
} as const

/** The lines of postgresql.conf that keep a server's settings equal to `COMPUTE_SETTINGS`. */
export function computeSettingsConf(): string {
  return [
    'wal_level = replica',
    'wal_log_hints = off',
    `max_connections = ${COMPUTE_SETTINGS.maxConnections}`,
    `max_worker_processes = ${COMPUTE_SETTINGS.maxWorkerProcesses}`,
    `max_wal_senders = ${COMPUTE_SETTINGS.maxWalSenders}`,
    `max_prepared_transactions = ${COMPUTE_SETTINGS.maxPreparedTransactions}`,
    `max_locks_per_transaction = ${COMPUTE_SETTINGS.maxLocksPerTransaction}`,
    'track_commit_timestamp = off',
    '',
  ].join('\n')
}
