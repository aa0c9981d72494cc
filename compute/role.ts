/**
 * What a compute has to do with its branch's WAL. A primary is a WAL proposer: it is elected, it
 * streams, it commits. The others only read, and so take part in nothing.
 */
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import { ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { type Lsn, parseLsn } from '#libs/lsn.ts'
import type { ClusterSize, ShardPositions } from '#libs/protocol/shard-feedbacks.ts'
import { createProposer } from './proposer-of-spec.ts'
import type { PostgresAddress } from './proposer/postgres-stream.ts'
import { ReplicaRole } from './replica-role.ts'

export type PageserverListener = (positions: ShardPositions, size: ClusterSize | null) => void

export interface Role {
  /** What clients are promised: quorum-durable WAL, or the state that is shown; 0 at first. */
  readonly commitLsn: Lsn
  /** The present term of one that writes; it may rise after `elect`. */
  readonly term?: number
  /** Bytes of WAL that are known here and not shown yet; null where that says nothing. */
  readonly lagBytes: number | null
  /**
   * Comes to know where the compute starts. A `startLsn` of null is found in the base backup, and
   * `term` is null for a compute that does not write.
   */
  elect(): Promise<{ term: number | null; startLsn: Lsn | null }>
  /** Called when Postgres is up, which began at `startLsn`. */
  stream(options: PostgresAddress & { startLsn: Lsn }): void
  /** Called when Postgres has ended cleanly; resolves when what it wrote is committed. */
  stop(): Promise<void>
  /**
   * Tells how far the page server is with this compute's WAL, and how large that makes the cluster,
   * now and whenever it is heard.
   */
  onPageserver?(listener: PageserverListener): void
  /** Tells that replay was paused, which may be for want of larger limits. */
  onPaused?(listener: () => void): void
  /** Tells when this compute must not go on. */
  onFenced(listener: (reason: string) => void): void
}

export function roleOf(spec: ComputeSpec, log: Logger): Role {
  switch (spec.mode) {
    case 'primary':
      return createProposer(spec, log)
    case 'static':
      return new StaticRole(spec)
    case 'replica':
      return new ReplicaRole(log)
  }
}

/** Shows one LSN for ever. */
class StaticRole implements Role {
  readonly commitLsn: Lsn
  readonly lagBytes = null

  constructor({ readLsn }: ComputeSpec) {
    if (readLsn === undefined) {
      throw new ZenithError('invalid_argument', 'the spec of a static compute names no readLsn')
    }
    this.commitLsn = parseLsn(readLsn)
  }

  elect(): Promise<{ term: null; startLsn: Lsn }> {
    return Promise.resolve({ term: null, startLsn: this.commitLsn })
  }

  stream(): void {}

  stop(): Promise<void> {
    return Promise.resolve()
  }

  onFenced(): void {}
}
