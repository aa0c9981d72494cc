/**
 * Which keys a shard keeps. Every shard takes in all WAL of its timelines, so each knows the exact
 * size of every relation and needs no word from the others; of all else it keeps what is its own.
 *
 *   blocks of relations (main fork and maps)   the shard that `shardOfBlock` names
 *   sizes of relations, checkpoint state       all shards
 *   init forks, SLRUs, relation maps, files    shard 0
 *
 * Asked for each version, so what follows from the key's prefix is kept by slot.
 */
import { isSpreadFork, relationHash, type ShardIdentity, shardOfStripe } from '#libs/sharding.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'

const UNKNOWN = 0
const ALL = 1
const NONE = 2
const BY_STRIPE = 3

/** What is asked of a table of slots. */
type Prefixes = Pick<SlotTable, 'cls' | 'rel' | 'fork'>

export class ShardFilter {
  readonly identity: ShardIdentity
  readonly #slots: Prefixes
  /** By slot: one of the words above, and for BY_STRIPE the relation's hash. */
  #kind = new Uint8Array(1024)
  #hash = new Uint32Array(1024)

  constructor(identity: ShardIdentity, slots: Prefixes) {
    this.identity = identity
    this.#slots = slots
  }

  /** True when versions of this key belong here. */
  keeps(slot: number, blk: number): boolean {
    const kind = this.#kindOf(slot)
    if (kind !== BY_STRIPE) return kind === ALL
    const { number, count, stripeBlocks } = this.identity
    const stripe = Math.floor(blk / stripeBlocks)
    return shardOfStripe(this.#hash[slot] as number, stripe, count) === number
  }

  /** False when no block of the prefix belongs here. */
  keepsSome(slot: number): boolean {
    return this.#kindOf(slot) !== NONE
  }

  /** The end of the run of blocks from `blk` on that are all kept or all not. */
  runEnd(slot: number, blk: number): number {
    if (this.#kindOf(slot) !== BY_STRIPE) return Number.POSITIVE_INFINITY
    const { stripeBlocks } = this.identity
    return (Math.floor(blk / stripeBlocks) + 1) * stripeBlocks
  }

  #kindOf(slot: number): number {
    const kind = this.#kind[slot] ?? UNKNOWN
    return kind === UNKNOWN ? this.#learn(slot) : kind
  }

  #learn(slot: number): number {
    if (slot >= this.#kind.length) this.#grow(slot)
    const kind = this.#decide(slot)
    this.#kind[slot] = kind
    this.#hash[slot] = relationHash(this.#slots.rel(slot))
    return kind
  }

  #decide(slot: number): number {
    const onlyFirst = this.identity.number === 0 ? ALL : NONE
    switch (this.#slots.cls(slot)) {
      case KeyClass.RelBlock:
        return isSpreadFork(this.#slots.fork(slot)) ? BY_STRIPE : onlyFirst
      case KeyClass.RelSize:
      case KeyClass.Checkpoint:
        return ALL
      default:
        return onlyFirst
    }
  }

  #grow(slot: number): void {
    const capacity = Math.max(this.#kind.length * 2, slot + 1)
    const kind = new Uint8Array(capacity)
    const hash = new Uint32Array(capacity)
    kind.set(this.#kind)
    hash.set(this.#hash)
    this.#kind = kind
    this.#hash = hash
  }
}
