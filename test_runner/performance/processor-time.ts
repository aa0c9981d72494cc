/**
 * Processor time of other processes, from /proc: user and system together, in ticks of 10 ms. A busy
 * machine disturbs it little, unlike elapsed time.
 */
import { readdirSync, readFileSync } from 'node:fs'

const TICKS_PER_SECOND = 100
const SESSION_TITLE = /^postgres: \S+ \S+ (\d|\[local\])/

interface ProcessStat {
  parent: number
  /** Of the process itself, and of children that it has waited for. */
  ownSeconds: number
  childrenSeconds: number
}

/** Null when the process is gone. */
function statOf(pid: number | 'self'): ProcessStat | null {
  let text: string
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return null
  }
  // The name may hold spaces and parentheses; fields are counted from behind it (man 5 proc).
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const seconds = (first: number) =>
    (Number(fields[first]) + Number(fields[first + 1])) / TICKS_PER_SECOND
  return { parent: Number(fields[1]), ownSeconds: seconds(11), childrenSeconds: seconds(13) }
}

/** What a process has used; 0 when it is gone. */
export function processorSeconds(pid: number): number {
  return statOf(pid)?.ownSeconds ?? 0
}

/** What ended and awaited children of this process have used, pgbench among them. */
export function ownChildrenSeconds(): number {
  return statOf('self')?.childrenSeconds ?? 0
}

export interface PostgresSeconds {
  /** Sessions, those that have ended included. */
  backends: number
  walsender: number
  /** The rest: checkpointer, writers, autovacuum. */
  others: number
}

/** What the processes of a Postgres server have used. */
export function postgresSeconds(postmaster: number): PostgresSeconds {
  for (;;) {
    const ended = statOf(postmaster)?.childrenSeconds ?? 0
    const used = secondsOfChildren(postmaster)
    // A session that ends meanwhile would be counted twice, or not at all.
    if ((statOf(postmaster)?.childrenSeconds ?? 0) !== ended) continue
    return {
      ...used,
      backends: used.backends + ended,
      others: used.others + processorSeconds(postmaster),
    }
  }
}

function secondsOfChildren(postmaster: number): PostgresSeconds {
  const used: PostgresSeconds = { backends: 0, walsender: 0, others: 0 }
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const stat = statOf(Number(name))
    if (stat?.parent !== postmaster) continue
    const title = titleOf(name)
    if (title.includes('walsender')) used.walsender += stat.ownSeconds
    // One that has just ended has no title any more.
    else if (title === '' || SESSION_TITLE.test(title)) used.backends += stat.ownSeconds
    else used.others += stat.ownSeconds
  }
  return used
}

function titleOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  } catch {
    return ''
  }
}
