/**
 * The middle of embedded discovery: takes frames and hands each to all subscribers of its timeline.
 * Keeps nothing but the latest message of each safekeeper about each timeline, for who subscribes
 * later. A slow subscriber loses its oldest frames; it costs neither memory nor anybody's time.
 */
import { encodeFrame, type DiscoveryFrame, type TimelineKey, timelineKeyText } from './message.ts'

/** Frames that wait for one subscriber. */
export const QUEUE_FRAMES = 4096
/** What is older says nothing to a newcomer. */
export const REMEMBER_MS = 10_000
const MAX_REMEMBERED = 100_000

export class HubSubscription {
  readonly timeline: string | null
  readonly #ready: () => void
  readonly #close: (subscription: HubSubscription) => void
  #frames: Buffer[] = []
  /** Frames before this place have been taken. */
  #taken = 0
  dropped = 0

  constructor(
    timeline: string | null,
    ready: () => void,
    close: (subscription: HubSubscription) => void,
  ) {
    this.timeline = timeline
    this.#ready = ready
    this.#close = close
  }

  get waiting(): number {
    return this.#frames.length - this.#taken
  }

  /** Adds an encoded frame; the oldest goes when too many wait. */
  push(frame: Buffer): void {
    if (this.waiting >= QUEUE_FRAMES) {
      this.#taken += 1
      this.dropped += 1
    }
    if (this.#taken > QUEUE_FRAMES) {
      this.#frames = this.#frames.slice(this.#taken)
      this.#taken = 0
    }
    this.#frames.push(frame)
    if (this.waiting === 1) this.#ready()
  }

  /** All that waits, as one piece; null when nothing does. */
  take(): Buffer | null {
    if (this.waiting === 0) return null
    const bytes = Buffer.concat(this.#frames.slice(this.#taken))
    this.#frames = []
    this.#taken = 0
    return bytes
  }

  close(): void {
    this.#close(this)
  }
}

export class DiscoveryHub {
  readonly #subscriptions = new Set<HubSubscription>()
  /** By timeline and node; in the order in which they came. */
  readonly #latest = new Map<string, { timeline: string; frame: Buffer; atMs: number }>()

  /** `ready` is called when frames wait where none did before. Times are of one monotonic clock. */
  subscribe(timeline: TimelineKey | null, ready: () => void, nowMs: number): HubSubscription {
    const key = timeline === null ? null : timelineKeyText(timeline)
    const subscription = new HubSubscription(key, ready, (one) => this.#subscriptions.delete(one))
    this.#subscriptions.add(subscription)
    this.#forgetOld(nowMs)
    for (const latest of this.#latest.values()) {
      if (key === null || latest.timeline === key) subscription.push(latest.frame)
    }
    return subscription
  }

  publish(frames: readonly DiscoveryFrame[], nowMs: number): void {
    for (const frame of frames) {
      const timeline = timelineKeyText(frame)
      const bytes = encodeFrame(frame)
      if (frame.kind === 'message') {
        const key = `${timeline}/${frame.nodeId}`
        this.#latest.delete(key)
        this.#latest.set(key, { timeline, frame: bytes, atMs: nowMs })
      }
      for (const subscription of this.#subscriptions) {
        const { timeline: wanted } = subscription
        if (wanted === null || wanted === timeline) subscription.push(bytes)
      }
    }
    this.#forgetOld(nowMs)
  }

  get subscribers(): number {
    return this.#subscriptions.size
  }

  /** Frames that slow subscribers, of those here now, have lost. */
  get dropped(): number {
    let dropped = 0
    for (const subscription of this.#subscriptions) dropped += subscription.dropped
    return dropped
  }

  #forgetOld(nowMs: number): void {
    for (const [key, { atMs }] of this.#latest) {
      if (nowMs - atMs <= REMEMBER_MS && this.#latest.size <= MAX_REMEMBERED) break
      this.#latest.delete(key)
    }
  }
}
