/** What this page server may do with a tenant that it serves, shared by its timelines. */
import type { AttachMode } from '#libs/api/attach-mode.ts'
import type { TenantId } from '#libs/ids.ts'
import { ZenithError } from '#libs/errors.ts'

export class Attachment {
  readonly tenantId: TenantId
  #mode: AttachMode = 'attached'
  #heldBack: string[] = []

  constructor(tenantId: TenantId) {
    this.tenantId = tenantId
  }

  get mode(): AttachMode {
    return this.#mode
  }

  /** False for a stale holder: its manifests and layers would be those of an older generation. */
  get mayWrite(): boolean {
    return this.#mode !== 'stale'
  }

  /**
   * Changes the mode; returns objects that were released while another holder might have needed
   * them, and now may go.
   */
  become(mode: AttachMode): string[] {
    this.#mode = mode
    return mode === 'attached' ? this.#heldBack.splice(0) : []
  }

  /** Objects that no manifest of ours names any more: those that may go now; others are kept for later. */
  released(names: readonly string[]): readonly string[] {
    if (this.#mode === 'attached') return names
    // A stale holder releases nothing that is its own to release.
    if (this.#mode === 'multi') this.#heldBack.push(...names)
    return []
  }

  /** Throws `unavailable` for a stale holder; whoever asks will find the new one. */
  checkMayWrite(): void {
    if (this.mayWrite) return
    throw new ZenithError(
      'unavailable',
      `tenant ${this.tenantId} is being moved to another page server`,
      { hint: 'Try again in a moment.' },
    )
  }
}
