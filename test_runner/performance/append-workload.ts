/**
 * One safekeeper and nothing else: WAL is pushed to it as fast as it takes it, and it syncs each
 * write. Beside it what the disk itself gives for plain sequential synced writes.
 */
import { randomBytes } from 'node:crypto'
import { closeSync, constants, mkdtempSync, openSync, rmSync, writeSync, writevSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { callSafekeeper } from '#libs/api/safekeeper.ts'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { formatLsn, type Lsn, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { MAX_APPEND_BYTES, type VoteReply } from '#libs/protocol/wal-push.ts'
import { SafekeeperLink } from '../../compute/proposer/safekeeper-link.ts'
import { freePort } from '../fixtures/free-port.ts'
import { WalBuilder } from '../fixtures/wal-builder.ts'
import { SafekeeperProcess } from '../fixtures/wal-service.ts'
import { processorSeconds } from './processor-time.ts'
import type { Report } from './report.ts'

const START: Lsn = WAL_SEGMENT_SIZE + 8192 + 24
const SYSTEM_ID = 7n
/** WAL that is sent and not acknowledged yet. */
const IN_FLIGHT_BYTES = 16 * 1024 * 1024
const DISK_SIZES = [8192, 131_072, 1 << 20, 4 << 20]

/** WAL of records of the given length, in pieces as they are sent. */
function makeWal(megabytes: number, recordBytes: number): Buffer {
  const wal = new WalBuilder(START, { systemId: SYSTEM_ID })
  while (wal.lsn - START < megabytes * 1e6) wal.appendNoop(recordBytes)
  return wal.bytes()
}

/** MB/s through one safekeeper, and its processor time, for bulk loads and for small records. */
export async function measureAppends(report: Report, megabytes: number): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'zenith-append-'))
  try {
    for (const [what, recordBytes, share] of [
      ['records of 8 KB', 8100, 1],
      ['records of 150 bytes', 150, 0.25],
    ] as const) {
      const wal = makeWal(megabytes * share, recordBytes)
      const { seconds, processor } = await pushAll(mkdtempSync(join(dir, 'sk-')), wal)
      const size = wal.length / 1e6
      const how = `${Math.round(size)} MB to one safekeeper with its syncs, 16 MiB in flight`
      report.add(
        {
          name: `append, ${what}`,
          unit: 'MB/s',
          better: 'more',
          how,
          goal: '>= 350 where the disk allows',
        },
        'zenith',
        size / seconds,
      )
      report.add(
        { name: `safekeeper per MB, ${what}`, unit: 'cpu µs', better: 'less', how },
        'zenith',
        (processor / size) * 1e6,
      )
    }
    for (const bytes of DISK_SIZES) {
      report.add(
        {
          name: `disk, synced writes of ${bytes / 1024} KiB`,
          unit: 'MB/s',
          better: 'more',
          how: 'O_DSYNC writev one after the other into files of 16 MiB that hold zeros already',
        },
        'zenith',
        diskFigure(dir, bytes),
      )
    }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

async function pushAll(dir: string, wal: Buffer): Promise<{ seconds: number; processor: number }> {
  const info = { id: 1, host: '127.0.0.1', pgPort: await freePort(), httpPort: await freePort() }
  const safekeeper = new SafekeeperProcess(info, dir)
  await safekeeper.process.start()
  try {
    const target = { tenantId: newTenantId(), timelineId: newTimelineId() }
    await callSafekeeper(safekeeper.url, 'createTimeline', {
      params: target,
      body: {
        startLsn: formatLsn(START),
        systemId: String(SYSTEM_ID),
        generation: 1,
        members: [info],
      },
    })
    const pid = safekeeper.process.pid as number
    const before = processorSeconds(pid)
    const seconds = await push(info, target, wal)
    return { seconds, processor: processorSeconds(pid) - before }
  } finally {
    await safekeeper.process.stop('SIGTERM')
  }
}

/** Plays a proposer: wins term 1, sends all, resolves with the seconds until all is acknowledged. */
function push(
  member: SafekeeperProcess['info'],
  target: { tenantId: string; timelineId: string },
  wal: Buffer,
): Promise<number> {
  return new Promise((resolve, reject) => {
    let [sent, acked, startedAt] = [0, 0, 0]
    const generation = 1
    const pump = () => {
      while (sent < wal.length && sent - acked < IN_FLIGHT_BYTES && link.isWritable) {
        const end = Math.min(wal.length, sent + MAX_APPEND_BYTES)
        const commitLsn = START + acked
        link.append(
          {
            generation,
            term: 1,
            beginLsn: START + sent,
            endLsn: START + end,
            commitLsn,
            truncateLsn: START,
            replyRequested: false,
          },
          [wal.subarray(sent, end)],
        )
        sent = end
      }
    }
    const onVote = (vote: VoteReply) => {
      const history = [...vote.history, { term: 1, startLsn: START }]
      link.send({ kind: 'elected', generation, term: 1, startStreamingAt: START, history })
      startedAt = performance.now()
      pump()
    }
    const link: SafekeeperLink = new SafekeeperLink(member, target as never, {
      onConnected: () =>
        link.send({
          kind: 'greeting',
          ...target,
          configuration: { generation, members: [member], newMembers: null },
          pgVersion: 170011,
          systemId: SYSTEM_ID,
          walSegmentSize: WAL_SEGMENT_SIZE,
          proposerId: randomBytes(16).toString('hex'),
          ordinal: 1,
        }),
      onMessage: (message) => {
        if (message.kind === 'greeting') link.send({ kind: 'vote', generation, term: 1 })
        else if (message.kind === 'vote') onVote(message)
        else if (message.kind === 'ack') {
          acked = Math.max(acked, message.flushLsn - START)
          if (acked < wal.length) pump()
          else {
            link.close()
            resolve((performance.now() - startedAt) / 1000)
          }
        }
      },
      onWritable: pump,
      onEnd: (error) => reject(error ?? new Error('the safekeeper ended the connection')),
    })
  })
}

/** MB/s of synced writes of one size, in files as the safekeeper's spare segments are. */
function diskFigure(dir: string, bytes: number): number {
  const total = Math.min(256 << 20, Math.max(16 << 20, bytes * 1000))
  const files = Array.from({ length: total / WAL_SEGMENT_SIZE }, (_, index) => {
    const path = join(dir, `disk-${bytes}-${index}`)
    const file = openSync(path, 'w')
    writeSync(file, Buffer.alloc(WAL_SEGMENT_SIZE))
    closeSync(file)
    const synced = openSync(path, 'r+')
    writevSync(synced, [Buffer.alloc(1)], 0)
    closeSync(synced)
    return openSync(path, constants.O_WRONLY | constants.O_DSYNC)
  })
  const data = randomBytes(bytes)
  const start = performance.now()
  for (const file of files) {
    for (let at = 0; at < WAL_SEGMENT_SIZE; at += bytes) writevSync(file, [data], at)
  }
  const seconds = (performance.now() - start) / 1000
  for (const file of files) closeSync(file)
  return total / 1e6 / seconds
}
