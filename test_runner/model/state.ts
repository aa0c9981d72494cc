/** What a state of the model is: a few rows of small numbers, and how large the model may grow. */

export interface ModelOptions {
  readonly safekeepers: number
  readonly proposers: number
  /** States in which a higher term is known are not followed. */
  readonly maxTerm: number
  /** Records that each compute may write. */
  readonly writes: number
  /** Safekeepers that each compute can reach; which ones is explored, where it makes a difference. */
  readonly reach: number
  /** Whether computes tell of commits with messages of their own, not on appends only. */
  readonly news: boolean
  /** Crashes of safekeepers, and broken connections, in one run. */
  readonly crashes: number
  readonly breaks: number
}

/** End of a connection, in a queue of messages. */
export const EOF = -1

export interface Compute {
  core: number
  /** Ids of the safekeepers that it can reach; connections to others are never made. */
  readonly reach: readonly number[]
  /** Place of its first own record; -1 until it may write. */
  base: number
  written: number
  /** What it reads from one safekeeper for another. */
  fetches: { node: number; donor: number; beginLsn: number; endLsn: number }[]
}

export interface Disk {
  node: number
  control: number
  log: number
  durable: number
  epoch: number
}

export interface Link {
  readonly id: number
  readonly compute: number
  readonly safekeeper: number
  toSafekeeper: number[]
  toCompute: number[]
  /** The compute still uses it, the safekeeper still knows it. */
  live: boolean
  known: boolean
}

export interface State {
  computes: (Compute | null)[]
  disks: Disk[]
  links: Link[]
  linkCounter: number
  committed: number
  /** "term:compute:start" of every leader. */
  leaders: string[]
  crashes: number
  breaks: number
}

export interface Action {
  readonly name: string
  readonly apply: (state: State) => void
}

/** Equal for states that behave alike. */
export function stateKey(state: State): string {
  const computes = state.computes.map((one) =>
    one === null
      ? ''
      : `${one.core}/${one.reach.join('')}/${one.base}/${one.written}/${one.fetches.map((f) => `${f.node},${f.donor},${f.beginLsn},${f.endLsn}`).join('+')}`,
  )
  const disks = state.disks.map((one) => `${one.node}/${one.control}/${one.log}/${one.durable}`)
  const links = state.links.map(
    (one) =>
      `${one.id}/${one.compute}${one.safekeeper}${one.live ? 1 : 0}${one.known ? 1 : 0}` +
      `${one.toSafekeeper.join()}/${one.toCompute.join()}`,
  )
  const rest = `${state.committed}|${state.leaders.join()}|${state.crashes}|${state.breaks}`
  return `${computes.join(';')}|${disks.join(';')}|${links.join(';')}|${rest}`
}

/** One that can be changed without changing the other. */
export function copyState(state: State): State {
  return {
    computes: state.computes.map((one) => one && { ...one, fetches: [...one.fetches] }),
    disks: state.disks.map((one) => ({ ...one })),
    links: state.links.map((one) => ({
      ...one,
      toSafekeeper: [...one.toSafekeeper],
      toCompute: [...one.toCompute],
    })),
    linkCounter: state.linkCounter,
    committed: state.committed,
    leaders: [...state.leaders],
    crashes: state.crashes,
    breaks: state.breaks,
  }
}
