/**
 * Masks pages with the functions that Postgres' wal_consistency_checking uses, run by a stock server
 * with `zenith_test_utils`.
 */
import type pg from 'pg'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'

export class PageMasks implements AsyncDisposable {
  readonly #server: VanillaPostgres
  readonly #client: pg.Client

  private constructor(server: VanillaPostgres, client: pg.Client) {
    this.#server = server
    this.#client = client
  }

  static async start(): Promise<PageMasks> {
    const server = await VanillaPostgres.start()
    const client = await server.connect()
    await client.query('CREATE EXTENSION zenith_test_utils')
    return new PageMasks(server, client)
  }

  /** The same pages with everything blanked out that may differ. */
  async mask(firstBlock: number, pages: Buffer): Promise<Buffer> {
    const result = await this.#client.query({
      text: 'SELECT mask_pages($1, $2) AS masked',
      values: [firstBlock, pages],
    })
    return (result.rows[0] as { masked: Buffer }).masked
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.end()
    await this.#server[Symbol.asyncDispose]()
  }
}
