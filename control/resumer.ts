/**
 * Goes back, at start and every few seconds, to what is not finished: tenants and branches whose
 * creation or change was cut off, timelines that a safekeeper still lacks, changes of their members.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import type { Branches } from './branches.ts'
import type { Lifecycle } from './lifecycle/lifecycle.ts'
import type { TenantDeletion } from './lifecycle/tenant-deletion.ts'
import type { Imports } from './imports.ts'
import type { Migrations } from './membership/migrations.ts'
import type { ComputeMaps } from './moves/compute-maps.ts'
import type { Moves } from './moves/moves.ts'
import type { FormerShards } from './moves/former-shards.ts'
import type { Splits } from './moves/splits.ts'
import type { Spreads } from './moves/spreads.ts'
import type { SizeLimits } from './size-limits.ts'
import type { Tenants } from './tenants.ts'
import type { Timelines } from './timelines.ts'

const PAUSE_MS = 3_000

/** Starts the loop; the returned function ends it. */
export function runResumer(options: {
  tenants: Tenants
  branches: Branches
  lifecycle: Lifecycle
  tenantDeletion: TenantDeletion
  imports: Imports
  timelines: Timelines
  migrations: Migrations
  moves: Moves
  splits: Splits
  spreads: Spreads
  formerShards: FormerShards
  computeMaps: ComputeMaps
  sizeLimits: SizeLimits
  log: Logger
}): () => Promise<void> {
  const { tenants, branches, imports, lifecycle, tenantDeletion, timelines } = options
  const { migrations, moves, splits, spreads, formerShards, computeMaps, sizeLimits, log } = options
  const stop = new AbortController()
  const steps = [
    () => tenants.resume(),
    () => branches.resume(),
    () => lifecycle.resume(),
    () => tenantDeletion.resume(),
    () => imports.resume(),
    () => timelines.fillPending(),
    () => migrations.resume(),
    () => moves.resume(),
    () => sizeLimits.resume(),
    () => splits.resume(),
    () => spreads.resume(),
    () => formerShards.resume(),
    () => computeMaps.resume(),
  ]
  const loop = async () => {
    while (!stop.signal.aborted) {
      for (const step of steps) {
        await step().catch((error: unknown) =>
          log.warn({ reason: errorMessage(error) }, 'unfinished work must wait'),
        )
      }
      await sleep(PAUSE_MS, undefined, { signal: stop.signal }).catch(() => undefined)
    }
  }
  const done = loop()
  return () => {
    stop.abort()
    // A step under way may wait for a service for long; everything it did is durable, so let go.
    return Promise.race([done, sleep(200)])
  }
}
