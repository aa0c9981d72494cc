/** What one run is about: drawn from its seed, each with its own mix of dangers. */
import { WAL_PAGE_SIZE, WAL_SEGMENT_SIZE, walPageOffset } from '#libs/lsn.ts'
import type { NetworkOptions } from './network.ts'
import type { Prng } from './prng.ts'

export interface SimulationOptions {
  safekeepers: number
  startLsn: number
  network: NetworkOptions
  maxDiskDelayMs: number
  /** Per effect of a safekeeper: the process ends, or the machine. */
  crashChance: number
  /** Per sync. */
  eioChance: number
  /** Between two things that happen to nodes, at most. */
  calmMs: number
  maxDownMs: number
  maxWritePauseMs: number
  /** That a compute starts beside a living one. */
  rivalChance: number
  smallWindow: boolean
  /** Rounds of leaders that each reach other safekeepers. */
  chairs: boolean
  roundMs: number
  /** Computes that write nothing of their own. */
  syncShare: number
  maxRelayBytes: number
  /** Of what happens to nodes, the share of each kind. */
  pauseShare: number
  partitionShare: number
  jumpShare: number
  wipeShare: number
  fullShare: number
  /** Safekeepers beside the members, for changes of the members. */
  spares: number
  changeShare: number
  abortShare: number
  /** An operator raises the term of a safekeeper. */
  bumpShare: number
  /** A compute starts with an older list of members. */
  staleShare: number
  lossChance: number
  controlCrashChance: number
  /** Safekeepers tell each other where they are, and catch up from one another. */
  peers: boolean
  discoveryDropChance: number
  discoveryLieChance: number
  /** A page server reads along, and WAL goes to object storage. */
  pageserver: boolean
  offload: boolean
  objectStoreFailChance: number
  /** Clocks are off by this much, and run wrong by the thousandth part of it. */
  clockErrorMs: number
  /** After how long without use timelines leave the disks, with quiet times for it; null: never. */
  evictAfterMs: number | null
  /** The stored end of a log rots, of what happens to nodes. */
  rotShare: number
}

export function drawOptions(random: Prng): SimulationOptions {
  return {
    safekeepers: random.pick([1, 2, 3, 3, 3, 3, 4, 5, 5, 6]),
    startLsn: drawStart(random),
    network: {
      minDelayMs: 0.05,
      maxDelayMs: random.pick([1, 5, 50]),
      cutChance: random.pick([0, 0.0005, 0.005, 0.02]),
      lateChance: random.pick([0, 0, 0.002, 0.01]),
      clogChance: random.pick([0, 0, 0.001, 0.01]),
      splitChance: random.pick([0.02, 0.2, 0.7]),
    },
    maxDiskDelayMs: random.pick([0.3, 5, 50]),
    crashChance: random.pick([0, 0, 0.0005, 0.003]),
    eioChance: random.pick([0, 0, 0.0005, 0.005]),
    calmMs: random.pick([300, 1500, 6000]),
    maxDownMs: random.pick([50, 1000, 5000]),
    maxWritePauseMs: random.pick([5, 50, 300]),
    rivalChance: random.pick([0, 0.2, 0.6]),
    smallWindow: random.chance(0.5),
    chairs: random.chance(0.4),
    roundMs: random.pick([100, 300, 1000]),
    syncShare: random.pick([0, 0.3]),
    maxRelayBytes: random.pick([500, 5_000, 60_000]),
    pauseShare: random.pick([0, 0, 0.1, 0.3]),
    partitionShare: random.pick([0, 0, 0.1, 0.4]),
    jumpShare: random.pick([0, 0, 0.1]),
    wipeShare: random.pick([0, 0, 0, 0.05]),
    fullShare: random.pick([0, 0, 0.05]),
    spares: random.pick([0, 1, 2, 3]),
    changeShare: random.pick([0, 0.1, 0.3, 0.6]),
    abortShare: random.pick([0, 0, 0.1]),
    bumpShare: random.pick([0, 0, 0.1, 0.2]),
    staleShare: random.pick([0, 0.3]),
    lossChance: random.pick([0, 0.02, 0.1]),
    controlCrashChance: random.pick([0, 0, 0.05]),
    peers: random.chance(0.6),
    discoveryDropChance: random.pick([0, 0.1, 0.5]),
    discoveryLieChance: random.pick([0, 0.05, 0.3]),
    pageserver: random.chance(0.7),
    offload: random.chance(0.6),
    objectStoreFailChance: random.pick([0, 0.1, 0.4]),
    clockErrorMs: random.pick([0, 50, 3_600_000]),
    evictAfterMs: random.pick([null, 300, 300, 1500]),
    rotShare: random.pick([0, 0.1, 0.4]),
  }
}

/** A record boundary, often beside a page or segment boundary. */
function drawStart(random: Prng): number {
  const segment = random.int(1, 3) * WAL_SEGMENT_SIZE
  const place = random.int(0, 4)
  if (place === 0) return segment
  if (place === 1) return segment + WAL_SEGMENT_SIZE - random.pick([8, 120, 8192, 100_000])
  if (place === 2) return segment + random.int(1, 100) * WAL_PAGE_SIZE
  const lsn = segment + random.int(1, 1_000_000) * 8
  return walPageOffset(lsn) < 40 ? lsn + 40 : lsn
}
