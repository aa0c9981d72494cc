/**
 * What hot standbys need of the primary's dead rows, as the safekeepers that they read from pass it
 * on. Pure.
 *
 * A standby whose safekeeper is gone, or was started again, comes back in a moment. Meanwhile what
 * was said last still counts.
 */
import { oldestXmins, type StandbyXmins } from '#libs/protocol/standby-xmins.ts'

/** After a safekeeper says that it has no standbys any more. */
const LEFT_GRACE_MS = 5_000
/** After the connection to a safekeeper is gone: its standbys must find another one. */
const LOST_GRACE_MS = 30_000

export class StandbyHorizon {
  readonly #nodes = new Map<number, { xmins: StandbyXmins; untilMs: number }>()

  /** A safekeeper passed on what its standbys need. */
  heard(node: number, xmins: StandbyXmins, nowMs: number): void {
    if (xmins.xmin === 0n && xmins.catalogXmin === 0n) this.#expire(node, nowMs + LEFT_GRACE_MS)
    else this.#nodes.set(node, { xmins, untilMs: Number.POSITIVE_INFINITY })
  }

  /** The connection to a safekeeper is gone. */
  lost(node: number, nowMs: number): void {
    this.#expire(node, nowMs + LOST_GRACE_MS)
  }

  at(nowMs: number): StandbyXmins {
    for (const [node, { untilMs }] of this.#nodes) if (untilMs < nowMs) this.#nodes.delete(node)
    return oldestXmins([...this.#nodes.values()].map(({ xmins }) => xmins))
  }

  #expire(node: number, atMs: number): void {
    const known = this.#nodes.get(node)
    if (known !== undefined) known.untilMs = Math.min(known.untilMs, atMs)
  }
}
