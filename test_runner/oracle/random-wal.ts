/**
 * WAL that no server wrote: records of the kinds that the page server understands by itself, in a
 * random but possible order, laid out as Postgres lays them out. Stock Postgres and the page server
 * must make the same of it.
 *
 * Ids go up as on a real server, in steps now and then, so that pages and segments are crossed.
 */
import { zstdCompressSync } from 'node:zlib'
import { initPage, PAGE_SIZE } from '#libs/pg/page.ts'
import {
  CLOG_XACTS_PER_PAGE,
  COMMIT_TS_XACTS_PER_PAGE,
  MULTIXACT_MEMBERS_PER_PAGE,
  MULTIXACT_OFFSETS_PER_PAGE,
} from '#libs/pg/slru.ts'
import {
  BKPIMAGE_COMPRESS_ZSTD,
  MAIN_FORK,
  MULTIXACT_INFO,
  REPLORIGIN_INFO,
  RMGR,
  SLRU_INFO,
  SMGR_INFO,
  STANDBY_INFO,
  VM_FORK,
  XACT_HAS_INFO,
  XACT_INFO,
  XLOG_INFO,
} from '#libs/wal/format.ts'
import { type BuiltBlock, buildPayload, type WalBuilder, words } from '../fixtures/wal-builder.ts'
import type { Prng } from '../sim/prng.ts'

export const RANDOM_WAL_RELATION = { spc: 1663, db: 5, firstRel: 60_000, count: 4 } as const

const HAS_SUBXACTS = 2
const HAS_RELATIONS = 4
const HAS_ORIGIN = 32
const MOST_BLOCKS = 40
/** Blocks of one record; ids go up to 32. */
const MOST_REFERENCES = 33

function word64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

export interface RandomWalStart {
  nextXid: number
  nextMulti: number
  nextMultiOffset: number
}

export class RandomWal {
  readonly #wal: WalBuilder
  readonly #random: Prng
  /** As minor versions before 17.8 write: an offsets page is zeroed after its first entry is known. */
  readonly #lateOffsetsPages: boolean
  #nextXid: number
  #nextMulti: number
  #nextOffset: number
  #nextOid = 30_000
  #oldestMulti: number
  #oldestXid: number
  #commitTs = true
  #switches = 2

  constructor(
    wal: WalBuilder,
    random: Prng,
    start: RandomWalStart,
    options: { lateOffsetsPages: boolean },
  ) {
    this.#wal = wal
    this.#random = random
    this.#lateOffsetsPages = options.lateOffsetsPages
    this.#nextXid = start.nextXid
    this.#nextMulti = start.nextMulti
    this.#nextOffset = start.nextMultiOffset
    this.#oldestMulti = start.nextMulti
    this.#oldestXid = start.nextXid
  }

  /** Appends that many records and some they need; commit times are kept at the end. */
  append(count: number): void {
    const kinds: [weight: number, append: () => void][] = [
      [30, () => this.#finish()],
      [25, () => this.#multixact()],
      [12, () => this.#images()],
      [4, () => this.#skipXids()],
      [4, () => this.#truncate()],
      [2, () => this.#create(this.#relation())],
      [3, () => this.#origin()],
      [3, () => this.#trifle()],
      [2, () => this.#runningXacts()],
      [1, () => this.#truncateMultixacts()],
      [1, () => this.#truncateCommitTs()],
      [1, () => this.#layout()],
      [1, () => this.#parameters(!this.#commitTs)],
    ]
    const total = kinds.reduce((sum, [weight]) => sum + weight, 0)
    for (let index = 0; index < count; index += 1) {
      let at = this.#random.int(0, total - 1)
      for (const [weight, append] of kinds) {
        if (at < weight) {
          append()
          break
        }
        at -= weight
      }
    }
    if (!this.#commitTs) this.#parameters(true)
  }

  #put(rmid: number, info: number, main: Buffer, xid = 0, blocks: BuiltBlock[] = []): void {
    this.#wal.append(rmid, info, xid, buildPayload({ main, blocks }))
  }

  #newXid(): number {
    const xid = this.#nextXid
    this.#nextXid += 1
    if (xid % CLOG_XACTS_PER_PAGE === 0) {
      this.#put(RMGR.CLOG, SLRU_INFO.ZEROPAGE, word64(xid / CLOG_XACTS_PER_PAGE))
    }
    if (this.#commitTs && xid % COMMIT_TS_XACTS_PER_PAGE === 0) {
      this.#put(RMGR.COMMIT_TS, SLRU_INFO.ZEROPAGE, word64(xid / COMMIT_TS_XACTS_PER_PAGE))
    }
    return xid
  }

  /** Commit or abort: time | xinfo | subxids | relations | origin. */
  #finish(): void {
    const random = this.#random
    const xid = this.#newXid()
    const committed = random.chance(0.7)
    const opcode = committed ? XACT_INFO.COMMIT : XACT_INFO.ABORT
    const time = word64(800_000_000_000_000n + BigInt(random.int(0, 1_000_000_000)))
    const parts: Buffer[] = []
    let xinfo = 0
    if (random.chance(0.3)) {
      const subxids = Array.from({ length: random.int(1, 60) }, () => this.#newXid())
      xinfo |= HAS_SUBXACTS
      parts.push(words(subxids.length, ...subxids))
    }
    if (random.chance(0.05)) {
      xinfo |= HAS_RELATIONS
      parts.push(words(1, ...this.#relation()))
    }
    const originId = random.chance(0.2) ? random.int(1, 6) : undefined
    if (originId !== undefined) {
      xinfo |= HAS_ORIGIN
      parts.push(word64(random.int(1, 1_000_000)), word64(700_000_000_000_000n))
    }
    const info = opcode | (xinfo === 0 ? 0 : XACT_HAS_INFO)
    const main = Buffer.concat([time, ...(xinfo === 0 ? [] : [words(xinfo), ...parts])])
    const payload = buildPayload({ main, ...(originId === undefined ? {} : { originId }) })
    this.#wal.append(RMGR.TRANSACTION, info, xid, payload)
  }

  #multixact(): void {
    const random = this.#random
    const id = this.#nextMulti
    const offset = this.#nextOffset
    const size = random.chance(0.02) ? random.int(1000, 4000) : random.int(2, 12)
    const offsetsPage = (multi: number) => Math.floor(multi / MULTIXACT_OFFSETS_PER_PAGE)
    const zeroOffsets = (page: number) =>
      this.#put(RMGR.MULTIXACT, MULTIXACT_INFO.ZERO_OFF_PAGE, word64(page))
    if (this.#lateOffsetsPages && id % MULTIXACT_OFFSETS_PER_PAGE === 0)
      zeroOffsets(offsetsPage(id))
    const crosses = offsetsPage(id + 1) !== offsetsPage(id)
    if (!this.#lateOffsetsPages && crosses) zeroOffsets(offsetsPage(id + 1))
    for (let at = offset; at < offset + size; at += 1) {
      if (at % MULTIXACT_MEMBERS_PER_PAGE !== 0) continue
      const page = at / MULTIXACT_MEMBERS_PER_PAGE
      this.#put(RMGR.MULTIXACT, MULTIXACT_INFO.ZERO_MEM_PAGE, word64(page))
    }
    const members = Array.from({ length: size }, () => [
      this.#nextXid - random.int(1, 50),
      random.int(0, 5),
    ])
    this.#put(
      RMGR.MULTIXACT,
      MULTIXACT_INFO.CREATE_ID,
      words(id, offset, size, ...members.flat()),
      this.#nextXid - 1,
    )
    this.#nextMulti = id + 1
    this.#nextOffset = offset + size
  }

  #truncateMultixacts(): void {
    if (this.#nextMulti - this.#oldestMulti < 10) return
    const end = this.#random.int(this.#oldestMulti, this.#nextMulti)
    const members = this.#random.int(0, this.#nextOffset)
    const main = words(1, this.#oldestMulti, end, 0, members)
    this.#put(RMGR.MULTIXACT, MULTIXACT_INFO.TRUNCATE_ID, main)
    this.#oldestMulti = end
  }

  #truncateCommitTs(): void {
    const oldest = this.#random.int(this.#oldestXid, this.#nextXid - 1)
    const page = Math.floor(oldest / COMMIT_TS_XACTS_PER_PAGE)
    const main = Buffer.concat([word64(page), words(oldest)])
    this.#put(RMGR.COMMIT_TS, SLRU_INFO.TRUNCATE, main)
    this.#oldestXid = oldest
  }

  /** Limits of a server, its WAL level, and whether it keeps hints and commit times. */
  #parameters(commitTs: boolean): void {
    const main = Buffer.concat([words(50, 8, 10, 20, 64, 2), Buffer.from([0, commitTs ? 1 : 0])])
    this.#put(RMGR.XLOG, XLOG_INFO.PARAMETER_CHANGE, main)
    this.#commitTs = commitTs
  }

  /** Page images, up to as many as a record can have, with and without holes and compression. */
  #images(): void {
    const random = this.#random
    const [spc, db, rel] = this.#relation()
    let maps = false
    const hint = random.chance(0.3)
    const count = random.chance(0.1) ? MOST_REFERENCES : random.int(1, 4)
    const blocks: BuiltBlock[] = []
    for (let index = 0; index < count; index += 1) {
      const id = blocks.length
      const fork = random.chance(0.2) ? VM_FORK : MAIN_FORK
      maps ||= fork === VM_FORK
      const block = random.int(0, fork === VM_FORK ? 2 : MOST_BLOCKS)
      if (blocks.some((other) => other.block === block && (other.fork ?? 0) === fork)) continue
      const bare = { id, spc, db, rel, fork, block }
      blocks.push(hint && random.chance(0.4) ? bare : { ...bare, image: this.#image() })
    }
    // The pageserver takes no map of a relation that is not there, which redo would.
    if (maps) this.#create([spc, db, rel])
    this.#put(RMGR.XLOG, hint ? XLOG_INFO.FPI_FOR_HINT : XLOG_INFO.FPI, Buffer.alloc(0), 0, blocks)
  }

  #image(): NonNullable<BuiltBlock['image']> {
    const random = this.#random
    const page = Buffer.alloc(PAGE_SIZE)
    if (random.chance(0.1)) return { bytes: page }
    initPage(page)
    for (let at = 24; at < PAGE_SIZE; at += 1) page[at] = random.int(0, 3)
    if (random.chance(0.5)) return { bytes: page }
    const holeOffset = random.int(24, 4000)
    const holeLength = random.int(1, PAGE_SIZE - holeOffset)
    const rest = Buffer.concat([
      page.subarray(0, holeOffset),
      page.subarray(holeOffset + holeLength),
    ])
    if (random.chance(0.5)) return { bytes: rest, holeOffset, holeLength }
    const bytes = zstdCompressSync(rest)
    return { bytes, holeOffset, holeLength, compression: BKPIMAGE_COMPRESS_ZSTD }
  }

  /** Ids that no record names, up to the next status page or somewhere in it. */
  #skipXids(): void {
    const far = this.#random.chance(0.3)
    const until = this.#nextXid + (far ? CLOG_XACTS_PER_PAGE : this.#random.int(1, 900))
    while (this.#nextXid < until) this.#newXid()
    this.#put(RMGR.XLOG, XLOG_INFO.NOOP, words(0), this.#nextXid - 1)
  }

  #truncate(): void {
    const flags = this.#random.int(1, 7)
    const blocks = this.#random.int(0, MOST_BLOCKS)
    this.#put(RMGR.STORAGE, SMGR_INFO.TRUNCATE, words(blocks, ...this.#relation(), flags))
  }

  #create(relation: [number, number, number]): void {
    this.#put(RMGR.STORAGE, SMGR_INFO.CREATE, words(...relation, MAIN_FORK))
  }

  #origin(): void {
    const id = this.#random.int(1, 6)
    if (this.#random.chance(0.2)) {
      this.#put(RMGR.REPLICATION_ORIGIN, REPLORIGIN_INFO.DROP, Buffer.from([id, 0]))
      return
    }
    const force = this.#random.chance(0.3) ? 1 : 0
    const main = Buffer.concat([
      word64(this.#random.int(1, 1_000_000)),
      Buffer.from([id, 0, force, 0, 0, 0, 0, 0]),
    ])
    this.#put(RMGR.REPLICATION_ORIGIN, REPLORIGIN_INFO.SET, main)
  }

  /** Records that change nothing, or one counter. */
  #trifle(): void {
    const random = this.#random
    const restorePoint = Buffer.alloc(72)
    restorePoint.write('here', 8)
    const message = Buffer.concat([words(5, 0, 2, 0, 3, 0), Buffer.from('p\0abc')])
    const kinds: (() => void)[] = [
      () => this.#put(RMGR.XLOG, XLOG_INFO.NOOP, words(1)),
      () => this.#put(RMGR.XLOG, XLOG_INFO.RESTORE_POINT, restorePoint),
      () => this.#put(RMGR.XLOG, XLOG_INFO.CHECKPOINT_REDO, words(1)),
      () => this.#put(RMGR.XLOG, XLOG_INFO.FPW_CHANGE, Buffer.from([random.int(0, 1)])),
      () => this.#put(RMGR.XLOG, XLOG_INFO.BACKUP_END, word64(1)),
      () => {
        this.#nextOid += random.int(1, 9000)
        this.#put(RMGR.XLOG, XLOG_INFO.NEXTOID, words(this.#nextOid))
      },
      () => this.#put(RMGR.LOGICAL_MESSAGE, 0, message),
      () => {
        const [top, sub] = [this.#newXid(), this.#newXid()]
        // Recovery of stock Postgres takes no notice of the ids in it; without one in the header it
        // ends below them when nothing follows, and the page server, which takes notice, above.
        this.#put(RMGR.TRANSACTION, XACT_INFO.ASSIGNMENT, words(top, 1, sub), sub)
      },
      () => this.#put(RMGR.TRANSACTION, XACT_INFO.INVALIDATIONS, words(0), this.#newXid()),
    ]
    random.pick(kinds)()
  }

  #runningXacts(): void {
    const oldest = this.#nextXid - this.#random.int(0, 20)
    const main = words(0, 0, 0, this.#nextXid, oldest, this.#nextXid - 1)
    this.#put(RMGR.STANDBY, STANDBY_INFO.RUNNING_XACTS, main)
  }

  /** What changes how records lie: switches, and records that a crash cut off. */
  #layout(): void {
    if (this.#random.chance(0.5)) this.#wal.appendOverwritten(this.#random.int(9000, 20_000))
    else if (this.#switches > 0) {
      this.#switches -= 1
      this.#wal.appendSwitch()
    }
  }

  #relation(): [number, number, number] {
    const { spc, db, firstRel, count } = RANDOM_WAL_RELATION
    return [spc, db, firstRel + this.#random.int(0, count - 1)]
  }
}
