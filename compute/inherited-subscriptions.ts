/**
 * Drops the subscriptions that a branch has from its parent, before its first compute lets anybody
 * in: left alone they would take over the parent's slots at the publishers. Publishers are not
 * asked: slots there belong to the parent.
 */
import { chownSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from '#libs/log.ts'
import type { PgClient } from '#libs/pgwire/client.ts'
import { runAs } from '#libs/system-user.ts'

/** While this exists the extension lets no apply worker start (replication_state.c). */
const HOLD_FILE = 'zenith/hold-subscriptions'
/** Nothing listens there. With the slot's name gone, DROP SUBSCRIPTION is content with that. */
const NOWHERE = 'host=/nonexistent'

/** To be called before Postgres starts. */
export function holdSubscriptions(dataFolder: string): void {
  const user = runAs()
  const folder = join(dataFolder, 'zenith')
  const file = join(dataFolder, HOLD_FILE)
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  writeFileSync(file, '', { mode: 0o600 })
  if (user === null) return
  for (const path of [folder, file]) chownSync(path, user.uid, user.gid)
}

/** Lets later subscriptions work. */
export function releaseSubscriptions(dataFolder: string): void {
  rmSync(join(dataFolder, HOLD_FILE), { force: true })
}

/** Resolves when a quorum has it. `connect` gives a superuser's session in a database. */
export async function dropSubscriptions(
  connect: (database: string) => Promise<PgClient>,
  log: Logger,
): Promise<void> {
  const found = await queryIn(connect, 'postgres', [
    `SELECT d.datname, quote_ident(subname) FROM pg_subscription s
       JOIN pg_database d ON d.oid = subdbid ORDER BY datname, subname`,
  ])
  for (const [database, subscription] of found as [string, string][]) {
    await queryIn(connect, database, [
      'BEGIN',
      `ALTER SUBSCRIPTION ${subscription} DISABLE`,
      `ALTER SUBSCRIPTION ${subscription} SET (slot_name = NONE)`,
      // Tables whose copy is not complete have slots at the publisher, too.
      `ALTER SUBSCRIPTION ${subscription} CONNECTION '${NOWHERE}'`,
      `DROP SUBSCRIPTION ${subscription}`,
      'COMMIT',
    ])
    log.info({ database, subscription }, 'dropped a subscription of the parent branch')
  }
}

/** Runs statements in one session; returns the rows of the last. */
async function queryIn(
  connect: (database: string) => Promise<PgClient>,
  database: string,
  statements: readonly string[],
): Promise<(string | null)[][]> {
  const client = await connect(database)
  try {
    let rows: (string | null)[][] = []
    for (const statement of statements) rows = (await client.query(statement)).rows
    return rows
  } finally {
    await client.close()
  }
}
