/** A client of one page stream that looks at no page. */
import type { PgClient } from '#libs/pgwire/client.ts'
import {
  decodeResponse,
  encodeRequest,
  LATEST_LSN,
  type RelationFork,
} from '#libs/protocol/page-stream.ts'

/** Requests in flight on one page stream. */
export class PageStreamClient {
  readonly #client: PgClient
  #inFlight = 0
  #wake = () => {}
  #failure: Error | null = null

  constructor(client: PgClient) {
    this.#client = client
  }

  open(command: string): Promise<void> {
    return this.#client.startCopyBoth(
      command,
      (payload) => {
        const response = payload[0] === 0x67 ? null : decodeResponse(payload)
        if (response?.kind === 'error') this.#failure = new Error(response.message)
        this.#inFlight--
        this.#wake()
      },
      (error) => {
        this.#failure ??= error ?? null
        this.#wake()
      },
    )
  }

  get inFlight(): number {
    return this.#inFlight
  }

  ask(relation: RelationFork, firstBlock: number, count: number): void {
    this.#inFlight++
    this.#client.sendCopyData(
      encodeRequest({
        kind: 'getpage',
        requestId: 1n,
        requestLsn: LATEST_LSN,
        notModifiedSince: 0,
        ...relation,
        firstBlock,
        count,
      }),
    )
  }

  /** Resolves when at most `most` requests are in flight. */
  async settled(most: number): Promise<void> {
    while (this.#inFlight > most) {
      if (this.#failure) throw this.#failure
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    if (this.#failure) throw this.#failure
  }
}
