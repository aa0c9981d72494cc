/** Anything that answers SQL. */
interface Server {
  query(sql: string, database?: string): Promise<Record<string, unknown>[]>
}

/** Freezes all databases, after which everything older is cut from the SLRU areas. */
export async function freezeAll(server: Server): Promise<void> {
  await server.query('ALTER DATABASE template0 ALLOW_CONNECTIONS true')
  for (const row of await server.query('SELECT datname FROM pg_database')) {
    await server.query('VACUUM (FREEZE)', row['datname'] as string)
  }
  await server.query('ALTER DATABASE template0 ALLOW_CONNECTIONS false')
}
