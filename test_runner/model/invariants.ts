/** What must hold in every state (numbers as in docs/wal-service/), told from the disks. */
import { majority, memberSets } from '#libs/protocol/quorum.ts'
import type { MemberConfiguration } from '#libs/protocol/wal-push.ts'
import { isPrefix, type Log } from './records.ts'

export class ModelViolation extends Error {}

/** One safekeeper; positions as numbers of records. */
export interface SafekeeperView {
  readonly log: Log
  /** So much of the log survives a crash. */
  readonly durable: number
  readonly storedTerm: number
  /** What the acceptor believes. */
  readonly term: number
  readonly lastLogTerm: number
  readonly flushed: number
  readonly committed: number
}

/**
 * The log up to `length`, which a compute calls committed. Throws unless a majority has it (I11), and
 * it agrees with `known`, the longest that was committed before (I12, I13).
 */
export function committedLog(
  safekeepers: readonly SafekeeperView[],
  configuration: MemberConfiguration,
  known: Log,
  length: number,
): Log {
  const logs = safekeepers
    .filter((one) => one.durable >= length)
    .map((one) => one.log.slice(0, length))
  const log = logs.find((one) => isOnMajority(safekeepers, configuration, one))
  if (log === undefined) {
    throw new ModelViolation(`I11: ${length} records are called committed, no majority has them`)
  }
  if (!isPrefix(known, log) && !isPrefix(log, known)) {
    throw new ModelViolation(`I12: committed was ${shown(known)}, now it is ${shown(log)}`)
  }
  return log
}

/** Checks one safekeeper that has changed, alone and against the others. */
export function checkSafekeeper(
  safekeepers: readonly SafekeeperView[],
  configuration: MemberConfiguration,
  committed: Log,
  index: number,
): void {
  const mine = safekeepers[index] as SafekeeperView
  const name = `safekeeper ${index + 1}`
  if (!isOnMajority(safekeepers, configuration, committed)) {
    throw new ModelViolation(`I8: ${shown(committed)} was committed, no majority has it any more`)
  }
  const below = mine.log.slice(0, mine.committed)
  if (!isPrefix(below, committed)) {
    throw new ModelViolation(`I12: ${name} has committed ${shown(below)}, not ${shown(committed)}`)
  }
  if (mine.flushed > mine.durable) {
    throw new ModelViolation(`I8: ${name} calls durable what is not`)
  }
  if (mine.storedTerm < mine.term) {
    throw new ModelViolation(`I1: ${name} has a term that is not stored`)
  }
  const flushed = mine.log.slice(0, mine.flushed)
  for (const [other, rival] of safekeepers.entries()) {
    if (other === index || rival.lastLogTerm !== mine.lastLogTerm) continue
    const theirs = rival.log.slice(0, rival.flushed)
    if (isPrefix(theirs, flushed) || isPrefix(flushed, theirs)) continue
    throw new ModelViolation(
      `I6: logs of one last term differ: ${name} has ${shown(flushed)}, ${other + 1} ${shown(theirs)}`,
    )
  }
}

function isOnMajority(
  safekeepers: readonly SafekeeperView[],
  configuration: MemberConfiguration,
  log: Log,
): boolean {
  const holds = safekeepers.map((one) => isPrefix(log, one.log.slice(0, one.durable)))
  return memberSets(configuration).every(
    (ids) => ids.filter((id) => holds[id - 1]).length >= majority(ids.length),
  )
}

function shown(log: Log): string {
  return `[${log.join()}]`
}
