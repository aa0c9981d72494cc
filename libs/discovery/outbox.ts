/**
 * Frames on their way out. One message per timeline and node waits at most: a newer one takes its
 * place, since nobody wants the older. So the size is bounded by what a node keeps.
 */
import { type DiscoveryFrame, timelineKeyText } from './message.ts'

const MAX_WAITING = 10_000

export class Outbox {
  readonly #frames = new Map<string, DiscoveryFrame>()

  get size(): number {
    return this.#frames.size
  }

  put(frame: DiscoveryFrame): void {
    const node = frame.kind === 'message' ? frame.nodeId : 'request'
    const key = `${timelineKeyText(frame)}/${node}`
    this.#frames.delete(key)
    this.#frames.set(key, frame)
    if (this.#frames.size <= MAX_WAITING) return
    const oldest = this.#frames.keys().next().value
    if (oldest !== undefined) this.#frames.delete(oldest)
  }

  /** Takes up to `limit` frames, the oldest first. */
  take(limit: number): DiscoveryFrame[] {
    const taken: DiscoveryFrame[] = []
    for (const [key, frame] of this.#frames) {
      if (taken.length >= limit) break
      taken.push(frame)
      this.#frames.delete(key)
    }
    return taken
  }
}
