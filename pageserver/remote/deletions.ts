/** Objects that no manifest names any more, on their way out of object storage. */
import type { TenantId } from '#libs/ids.ts'

export interface Deletions {
  /**
   * Takes names whose absence from the manifests of `generation` is durable. They are deleted only
   * once the control plane has confirmed that no higher generation of the tenant exists: until then
   * another page server may still read by an older manifest.
   */
  push(tenantId: TenantId, generation: number, names: readonly string[]): void
  /**
   * The tenant is attached under this generation, and its manifests are loaded. What is queued from
   * the generation before goes on under this one, as far as nothing refers to it, which `unused` tells.
   */
  adopt(
    tenantId: TenantId,
    generation: number,
    unused: (names: readonly string[]) => readonly string[],
  ): void
  /**
   * Resolves when none of these names is queued any more, so that they may be written again. Does
   * not wait for anything when none is.
   */
  settle(names: readonly string[]): Promise<void>
}

/** Leaves every object where it is, for processes that do not own what they read. */
export const NO_DELETIONS: Deletions = {
  push: () => undefined,
  adopt: () => undefined,
  settle: async () => undefined,
}
