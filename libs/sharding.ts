/**
 * Sharding: the blocks of a tenant's relations spread over several page servers, stripe by stripe.
 *
 * To storage a shard is a tenant of its own, named `<tenant>-<shard><count>` (two hex digits each):
 * it has its own generation, folder and manifests, and takes in all WAL of its timelines, of which
 * it keeps its own blocks. Which shard a block belongs to follows from its relation's number and its
 * stripe alone. Tablespace and database are left out, so a database that is copied file by file
 * stays where it is. `pgxn/zenith/shard_map.c` has the same function; both are held to
 * `sharding-vectors.json`.
 *
 * Only blocks of the main fork and of the maps are spread. Init forks, sizes, transaction status,
 * maps of catalogs and everything else that a base backup needs are with shard 0.
 */
import { ZenithError } from './errors.ts'
import { parseTenantId, type TenantId } from './ids.ts'
import { INIT_FORK } from './wal/format.ts'

/** 16 MiB: long scans use several shards, and a run of blocks is still one request. */
export const DEFAULT_STRIPE_BLOCKS = 2048
/** Each backend of a compute has a connection to each shard, so more are of no use. */
export const MAX_SHARD_COUNT = 64
export const MAX_STRIPE_BLOCKS = 1_048_576

export interface ShardIdentity {
  /** From 0. */
  readonly number: number
  /** At least 2; a tenant that is not sharded has no identity. */
  readonly count: number
  /** Blocks of one fork that stay together. */
  readonly stripeBlocks: number
}

/** The last step of MurmurHash3 for 32 bits: every bit of the input changes half of the output. */
function mix(value: number): number {
  let h = value
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

/** What of the hash depends on the relation alone, for `shardOfStripe`. */
export function relationHash(rel: number): number {
  return mix(rel)
}

/** Shard of a stripe (block number / stripe size, rounded down) of the relation with that hash. */
export function shardOfStripe(hash: number, stripe: number, count: number): number {
  return mix((hash ^ stripe) | 0) % count
}

/** Number of the shard that has the block, whichever fork it is of but for init forks. */
export function shardOfBlock(
  rel: number,
  block: number,
  shards: Pick<ShardIdentity, 'count' | 'stripeBlocks'>,
): number {
  return shardOfStripe(relationHash(rel), Math.floor(block / shards.stripeBlocks), shards.count)
}

/** True for forks whose blocks are spread; a base backup has init forks, so shard 0 has all of them. */
export function isSpreadFork(fork: number): boolean {
  return fork !== INIT_FORK
}

const SHARD_SUFFIX = /^-([0-9a-f]{2})([0-9a-f]{2})$/
const TENANT_LENGTH = 32

/** The name that a shard goes by as a tenant of a page server; a count of 0 or 1 is no sharding. */
export function tenantShardId(tenantId: string, shard: number, count: number): TenantId {
  if (count <= 1) return parseTenantId(tenantId)
  const hex = (value: number) => value.toString(16).padStart(2, '0')
  return parseTenantShardId(`${tenantId}-${hex(shard)}${hex(count)}`)
}

/** A tenant id, or that of a shard. Throws `invalid_argument`. */
export function parseTenantShardId(text: string): TenantId {
  if (text.length === TENANT_LENGTH) return parseTenantId(text)
  const { number, count } = numbersOf(text)
  if (count < 2 || count > MAX_SHARD_COUNT || number >= count) {
    throw new ZenithError('invalid_argument', `"${text}" names shard ${number} of ${count}`)
  }
  return text as TenantId
}

/** The tenant that a shard is part of; a tenant that is not sharded itself. */
export function wholeTenant(tenantId: TenantId): TenantId {
  return tenantId.slice(0, TENANT_LENGTH) as TenantId
}

/** Which shard the id names; null for a tenant that is not sharded. */
export function shardNumberOf(tenantId: TenantId): { number: number; count: number } | null {
  return tenantId.length === TENANT_LENGTH ? null : numbersOf(tenantId)
}

/**
 * Identity of the shard that the id names; null for a tenant that is not sharded. Throws
 * `invalid_argument` when the size of its stripes is missing, without which nothing can be read.
 */
export function shardIdentity(tenantId: TenantId, stripeBlocks?: number): ShardIdentity | null {
  const numbers = shardNumberOf(tenantId)
  if (numbers === null) return null
  if (stripeBlocks !== undefined) return { ...numbers, stripeBlocks }
  throw new ZenithError('invalid_argument', `the size of a stripe of ${tenantId} is not known`, {
    hint: 'Whoever attaches a shard gives stripeBlocks, as the tenant was created with.',
  })
}

function numbersOf(text: string): { number: number; count: number } {
  parseTenantId(text.slice(0, TENANT_LENGTH))
  const match = SHARD_SUFFIX.exec(text.slice(TENANT_LENGTH))
  if (!match) {
    throw new ZenithError('invalid_argument', `"${text}" is not the id of a tenant or shard`, {
      hint: 'A shard is named by its tenant, "-", and its number and the count in hex: ...-0004.',
    })
  }
  const [, number, count] = match
  return {
    number: Number.parseInt(number as string, 16),
    count: Number.parseInt(count as string, 16),
  }
}
