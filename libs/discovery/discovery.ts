/**
 * How services learn about timelines on safekeepers without asking each of them. Advisory, whatever
 * the driver: what is published may not arrive, arrive late, twice or out of order, and may be
 * forged. Nothing here throws because the other side is away; it comes back by itself.
 */
import {
  type DiscoveryFrame,
  type DiscoveryMessage,
  type TimelineKey,
  timelineKeyText,
} from './message.ts'

export type DiscoveryListener = (frame: DiscoveryFrame) => void

export interface Discovery {
  /** Hands messages over for sending and returns at once; a newer one replaces one not yet sent. */
  publish(messages: readonly DiscoveryMessage[]): void
  /**
   * Calls `listener` for what is told about one timeline, or about all (null), until the returned
   * function runs. Who just subscribed hears the latest messages first, as far as they are known.
   */
  subscribe(timeline: TimelineKey | null, listener: DiscoveryListener): () => void
  /** Asks those who keep a timeline to publish it, which they may not do while it is quiet. */
  request(timeline: TimelineKey): void
  /** The stream of news works at this moment. */
  readonly connected: boolean
  close(): Promise<void>
}

/** Listeners of one process, by timeline. */
export class DiscoveryListeners {
  readonly #all = new Set<DiscoveryListener>()
  readonly #byTimeline = new Map<string, Set<DiscoveryListener>>()

  get size(): number {
    return this.#all.size + this.#byTimeline.size
  }

  add(timeline: TimelineKey | null, listener: DiscoveryListener): () => void {
    // The same function may listen twice; each time is ended by itself.
    const own: DiscoveryListener = (frame) => listener(frame)
    if (timeline === null) {
      this.#all.add(own)
      return () => this.#all.delete(own)
    }
    const key = timelineKeyText(timeline)
    const listeners = this.#byTimeline.get(key) ?? new Set()
    this.#byTimeline.set(key, listeners.add(own))
    return () => {
      listeners.delete(own)
      if (listeners.size === 0 && this.#byTimeline.get(key) === listeners) {
        this.#byTimeline.delete(key)
      }
    }
  }

  tell(frame: DiscoveryFrame): void {
    for (const listener of this.#all) listener(frame)
    for (const listener of this.#byTimeline.get(timelineKeyText(frame)) ?? []) listener(frame)
  }
}
