/** Objects that no manifest names any more, on their way out of object storage. */
import type { TenantId } from '#libs/ids.ts'

export interface Deletions {
  /**
   * Takes names whose absence from the manifests of `generation` is durable. They are deleted only
   * once the control plane has confirmed that no higher generation of the tenant exists: until then
   * another page server may still read by an older manifest.
   */
  push(tenantId: TenantId, generation: number, names: readonly string[]): void
}

/** Leaves every object where it is, for processes that do not own what they read. */
export const NO_DELETIONS: Deletions = { push: () => undefined }
