/** Discovery within one process: for tests of what listens to it. */
import { type Discovery, type DiscoveryListener, DiscoveryListeners } from './discovery.ts'
import type { DiscoveryMessage, TimelineKey } from './message.ts'

export class MemoryDiscovery implements Discovery {
  readonly #listeners = new DiscoveryListeners()
  connected = true

  publish(messages: readonly DiscoveryMessage[]): void {
    if (!this.connected) return
    for (const message of messages) this.#listeners.tell({ kind: 'message', ...message })
  }

  subscribe(timeline: TimelineKey | null, listener: DiscoveryListener): () => void {
    return this.#listeners.add(timeline, listener)
  }

  request({ tenantId, timelineId }: TimelineKey): void {
    if (this.connected) this.#listeners.tell({ kind: 'request', tenantId, timelineId })
  }

  async close(): Promise<void> {
    this.connected = false
  }
}
