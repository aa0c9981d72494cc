/** Takes in WAL up to an LSN, and lets go by what comes after. */
import type { Lsn } from '#libs/lsn.ts'
import type { WalSink } from '../wal-receiver/wal-stream.ts'

export class BoundedSink implements WalSink {
  nextLsn: Lsn
  readonly #sink: WalSink
  readonly #endLsn: Lsn

  constructor(sink: WalSink, endLsn: Lsn) {
    this.#sink = sink
    this.#endLsn = endLsn
    this.nextLsn = sink.nextLsn
  }

  async ingest(chunk: Buffer, startLsn: Lsn): Promise<void> {
    const room = this.#endLsn - startLsn
    if (room > 0) await this.#sink.ingest(chunk.subarray(0, room), startLsn)
    this.nextLsn = startLsn + chunk.length
  }
}
