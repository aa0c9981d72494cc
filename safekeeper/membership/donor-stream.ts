/** Reads WAL from another safekeeper up to a position, pinned to the term that it follows. */
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { connectSafekeeper } from '#libs/pgwire/safekeeper-connection.ts'
import type { SessionTarget } from '#libs/pgwire/session-target.ts'
import type { Member } from '#libs/protocol/wal-push.ts'
import {
  decodeWalStreamMessage,
  encodeStandbyStatus,
  postgresTimeUs,
} from '#libs/protocol/wal-stream.ts'

const SILENCE_MS = 30_000

export interface DonorRead {
  donor: Member
  target: SessionTarget
  /** The donor ends the stream as soon as it follows another one. */
  term: number
  beginLsn: Lsn
  endLsn: Lsn
  signal: AbortSignal
}

/**
 * Yields [beginLsn, endLsn) in pieces that follow each other. Throws when the donor follows another
 * term, goes away, or the signal fires.
 */
export async function* readFromDonor(read: DonorRead): AsyncGenerator<{ lsn: Lsn; wal: Buffer }> {
  const { donor, target, endLsn, signal } = read
  if (read.beginLsn >= endLsn) return
  const client = await connectSafekeeper({
    host: donor.host,
    pgPort: donor.pgPort,
    target,
    applicationName: 'safekeeper-pull',
  })
  const stop = () => client.fail(new ZenithError('unavailable', 'the copy was called off'))
  signal.addEventListener('abort', stop, { once: true })
  client.socket.setTimeout(SILENCE_MS, () =>
    client.fail(new ZenithError('unavailable', `safekeeper ${donor.id} is silent`)),
  )
  try {
    if (signal.aborted) stop()
    const sql = `START_REPLICATION PHYSICAL ${formatLsn(read.beginLsn)} (term='${read.term}')`
    let next = read.beginLsn
    for await (const payload of client.copyOut(sql)) {
      const message = decodeWalStreamMessage(payload)
      if (message.kind === 'keepalive') {
        if (message.replyRequested) client.sendCopyData(statusAt(next))
        continue
      }
      if (message.startLsn !== next) {
        const got = formatLsn(message.startLsn)
        throw new ZenithError('corrupt', `safekeeper ${donor.id} sent ${got} out of order`)
      }
      const wal = message.wal.subarray(0, endLsn - next)
      yield { lsn: next, wal }
      next += wal.length
      if (next >= endLsn) return
    }
    throw new ZenithError('unavailable', `safekeeper ${donor.id} ended its stream`)
  } finally {
    signal.removeEventListener('abort', stop)
    client.destroy()
  }
}

function statusAt(lsn: Lsn): Buffer {
  return encodeStandbyStatus({
    writeLsn: lsn,
    flushLsn: lsn,
    applyLsn: lsn,
    replyRequested: false,
    sentAtUs: postgresTimeUs(Date.now()),
  })
}
