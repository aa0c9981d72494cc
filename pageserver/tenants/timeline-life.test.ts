/**
 * Deletion, archiving and detaching of timelines, with a crash at every step: what was told stays
 * true, what is gone stays gone, and what another timeline needs is never lost.
 */
import { createHash } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { newTimelineId, type TimelineId } from '#libs/ids.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { localFolder, timelinesFolder } from '../remote/paths.ts'
import type { StorageStep } from '../timeline/storage-context.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { ScratchServer } from './testing/scratch-server.ts'

const START_LSN = 0x2000000
const BLOCKS = 12
const at = (round: number) => START_LSN + round * 800

let server: ScratchServer
let root: TimelineId

beforeEach(async () => {
  server = await ScratchServer.start({ imageDepth: 1000, imageAfterDeltas: 1000 })
  root = newTimelineId()
  const facts = { startLsn: START_LSN, systemId: '7', pgVersion: 170011 }
  await server.tenant.createTimeline(root, facts, async (timeline) => putRound(timeline, 0))
})

afterEach(async () => {
  await server.stop()
})

function putRound(timeline: Timeline, round: number, fill = round): void {
  const lsn = at(round)
  const size = Buffer.alloc(4)
  size.writeUInt32LE(BLOCKS)
  const sizeSlot = timeline.slot(KeyClass.RelSize, 1, 2, 3, 0)
  timeline.put(sizeSlot, 0, lsn, ValueKind.Image, size, 0, 4)
  const slot = timeline.slot(KeyClass.RelBlock, 1, 2, 3, 0)
  for (let blk = 0; blk < BLOCKS; blk++) {
    // Most pages get records, so that reads need what lies below.
    const image = round === 0 || blk % 4 === round % 4
    const bytes = image ? Buffer.alloc(PAGE_SIZE, fill * 16 + blk) : Buffer.from(`${fill}/${blk}`)
    const kind = image ? ValueKind.Image : ValueKind.Record
    timeline.put(slot, blk, lsn, kind, bytes, 0, bytes.length)
  }
  const aux = timeline.slot(KeyClass.AuxFile, 0, 0, 9, 0)
  timeline.put(aux, 0, lsn, ValueKind.Image, Buffer.from(`slot ${fill}`), 0, 6)
  timeline.publish(lsn)
}

/** All that can be read at the rounds, as one sum each. */
async function sums(timeline: Timeline, rounds: readonly number[]): Promise<string[]> {
  const found: string[] = []
  const slot = timeline.slot(KeyClass.RelBlock, 1, 2, 3, 0)
  for (const round of rounds) {
    const hash = createHash('sha256').update(await timeline.readPages(slot, 0, BLOCKS, at(round)))
    hash.update(String(await timeline.relSize(1, 2, 3, 0, at(round))))
    for (const { rel, value } of await timeline.scanBlobs(KeyClass.AuxFile, at(round))) {
      hash.update(`${rel}=${value.toString()}`)
    }
    found.push(hash.digest('hex'))
  }
  return found
}

async function branch(from: TimelineId, round: number): Promise<TimelineId> {
  const id = newTimelineId()
  const place = { ancestorTimelineId: from, ancestorLsn: at(round) }
  await server.tenant.branchTimeline(id, place)
  return id
}

const open = (id: TimelineId) => server.tenant.timeline(id)
const placeOf = (id: TimelineId) => {
  const ancestor = open(id).ancestor
  if (!ancestor) throw new Error('it has no ancestor')
  return { ancestorTimelineId: ancestor.timeline.timelineId, ancestorLsn: ancestor.lsn }
}
const objectsOf = async (id: TimelineId) =>
  (await server.store.list(`${timelinesFolder(server.tenantId)}/${id}`)).objects.map(
    ({ name }) => name,
  )
const localFiles = (id: TimelineId) =>
  readdir(localFolder(server.localFolder, server.tenantId, id)).catch(() => [])

/** Objects go, and what waits for that goes on, until nothing changes any more. */
async function settleDeletions(): Promise<void> {
  for (let round = 0; round < 4; round++) {
    await server.deleteDoomed()
    await server.restart({ clean: true })
    await server.tenant.lives.sweepDeleted()
  }
}

function failAt(step: StorageStep): void {
  let failed = false
  server.onStep = (now) => {
    if (now !== step || failed) return
    failed = true
    throw new Error(`stop at ${step}`)
  }
}

describe('deletion', () => {
  const STEPS: StorageStep[] = ['delete-closed', 'delete-written', 'delete-local-gone']
  for (const step of STEPS) {
    test(`cut off at ${step}, it is finished and the timeline never reappears`, async () => {
      const child = await branch(root, 0)
      putRound(open(child), 1)
      await open(child).flush()
      failAt(step)
      await expect(server.tenant.lives.delete(child)).rejects.toThrow('stop at')
      server.onStep = () => undefined
      await server.restart()
      // Before the first manifest that says so, nothing has happened.
      if (step === 'delete-closed') expect(open(child).lastRecordLsn).toBe(at(1))
      else expect(() => open(child)).toThrow('no timeline')
      await server.tenant.lives.delete(child)
      expect(() => open(child)).toThrow('no timeline')
      await expect(
        server.tenant.branchTimeline(child, { ancestorTimelineId: root, ancestorLsn: at(0) }),
      ).rejects.toMatchObject({ code: 'conflict' })
      expect(await localFiles(child)).toEqual([])
      await settleDeletions()
      expect(await objectsOf(child)).toEqual([])
      expect(() => open(child)).toThrow('no timeline')
      await server.tenant.lives.delete(child)
      expect(server.errors).toEqual([])
    })
  }

  test('only the manifest that says so is left while others may be newer', async () => {
    const child = await branch(root, 0)
    putRound(open(child), 1)
    await open(child).flush()
    await server.tenant.lives.delete(child)
    const kept = (await objectsOf(child)).filter((name) => !server.doomed.includes(name))
    expect(kept).toHaveLength(1)
    // Any order and any crash: each set of objects that may be left still says "deleted".
    for (const name of [...server.doomed]) {
      await server.store.delete(name)
      await server.restart()
      expect(() => open(child)).toThrow('no timeline')
    }
    await settleDeletions()
    expect(await objectsOf(child)).toEqual([])
  })

  test('and archiving do not wait for a collection that waits for them', async () => {
    for (const end of ['delete', 'archive'] as const) {
      const child = await branch(root, 0)
      putRound(open(child), 1)
      await open(child).flush()
      const { compactionLock } = open(child)
      const { gcLock } = server.tenant
      const pause = () => new Promise((resolve) => setTimeout(resolve, 20))
      const work: Promise<unknown>[] = []
      await gcLock.run(async () => {
        work.push(server.tenant.lives[end](child))
        await pause()
        // As a collection does: it has the one, and asks for the other.
        work.push(compactionLock.run(() => gcLock.run(async () => undefined)))
        await pause()
      })
      await Promise.all(work)
      expect(server.tenant.timelines().map(({ timelineId }) => timelineId)).toEqual([root])
    }
  })

  test('is refused while there are children, open or archived', async () => {
    const child = await branch(root, 0)
    await expect(server.tenant.lives.delete(root)).rejects.toMatchObject({ code: 'conflict' })
    await server.tenant.lives.archive(child)
    await expect(server.tenant.lives.delete(root)).rejects.toMatchObject({ code: 'conflict' })
    await server.tenant.lives.delete(child)
    await server.tenant.lives.delete(root)
    await settleDeletions()
    expect((await server.store.list('')).objects).toEqual([])
  })

  test('takes a timeline that cannot be opened, and nothing else meanwhile', async () => {
    const [child, other] = [await branch(root, 0), await branch(root, 0)]
    for (const name of await objectsOf(child)) {
      await server.store.delete(name)
      await server.store.put(name, Buffer.from('not a manifest'))
    }
    await server.restart()
    expect(() => open(child)).toThrow('cannot be opened')
    await expect(server.tenant.lives.delete(other)).rejects.toMatchObject({ code: 'conflict' })
    await server.tenant.lives.delete(child)
    await server.tenant.lives.delete(other)
    await settleDeletions()
    expect(await objectsOf(child)).toEqual([])
    expect(await sums(open(root), [0])).toHaveLength(1)
  })
})

describe('archiving', () => {
  test('frees local data, survives restarts, and gives back identical sums', async () => {
    const child = await branch(root, 0)
    for (const round of [1, 2, 3]) putRound(open(child), round, 100 + round)
    const before = await sums(open(child), [0, 1, 2, 3])
    await expect(server.tenant.lives.archive(root)).rejects.toMatchObject({ code: 'conflict' })
    await server.tenant.lives.archive(child)
    await server.tenant.lives.archive(root)
    for (const wipeLocal of [false, true]) {
      expect(() => open(child)).toThrow('is archived')
      expect(await localFiles(child)).toEqual([])
      expect(await localFiles(root)).toEqual([])
      expect(server.tenant.branchPointsOf(root)).toEqual([at(0)])
      await server.restart({ wipeLocal })
    }
    await expect(server.tenant.lives.unarchive(child)).rejects.toMatchObject({ code: 'conflict' })
    await expect(branch(root, 0)).rejects.toMatchObject({ code: 'conflict' })
    await server.tenant.lives.unarchive(root)
    await server.tenant.lives.unarchive(child)
    expect(await sums(open(child), [0, 1, 2, 3])).toEqual(before)
    putRound(open(child), 4)
    await open(child).flush()
    await server.restart()
    expect(await sums(open(child), [0, 1, 2, 3])).toEqual(before)
  })

  for (const step of ['archive-written', 'unarchive-written'] as const) {
    test(`cut off at ${step}, it can be asked for again`, async () => {
      const child = await branch(root, 0)
      putRound(open(child), 1)
      const before = await sums(open(child), [0, 1])
      failAt(step)
      const both = async () => {
        await server.tenant.lives.archive(child)
        await server.tenant.lives.unarchive(child)
      }
      await expect(both()).rejects.toThrow('stop at')
      await server.restart()
      await both()
      expect(await sums(open(child), [0, 1])).toEqual(before)
    })
  }
})

describe('detaching', () => {
  /** root → middle at 2 → child at 4; siblings of the child at 3 (archived), 4 and 6. */
  async function family() {
    for (const round of [1, 2, 3]) putRound(open(root), round)
    await open(root).createImageLayers()
    const middle = await branch(root, 2)
    for (const round of [3, 4, 5, 6]) {
      putRound(open(middle), round, 20 + round)
      if (round === 5) await open(middle).flush()
    }
    const [child, early, equal, late] = [
      await branch(middle, 4),
      await branch(middle, 3),
      await branch(middle, 4),
      await branch(middle, 6),
    ]
    putRound(open(child), 5, 35)
    putRound(open(early), 4, 44)
    await server.tenant.lives.archive(early)
    return { middle, child, early, equal, late }
  }

  const STEPS: (StorageStep | null)[] = [
    null,
    'sibling-moved',
    'siblings-moved',
    'layers-uploaded',
    'change-written',
  ]
  for (const step of STEPS) {
    test(`takes the whole history${step === null ? '' : `, cut off at ${step}`}`, async () => {
      const { middle, child, early, equal, late } = await family()
      const before = await sums(open(child), [4, 5])
      const equalBefore = await sums(open(equal), [4])
      // Deeper than where the child began: what the middle one shows there, without its slots.
      const history = await branch(middle, 3)
      const historyBefore = await sums(open(history), [3])
      await server.tenant.lives.delete(history)
      const place = placeOf(child)
      if (step === null) await server.tenant.lives.detach(child, place)
      else {
        failAt(step)
        await expect(server.tenant.lives.detach(child, place)).rejects.toThrow('stop at')
        server.onStep = () => undefined
        await server.restart()
        expect(await sums(open(equal), [4])).toEqual(equalBefore)
        putRound(open(child), 5, 35)
        expect(await sums(open(child), [4, 5])).toEqual(before)
        await server.tenant.lives.detach(child, place)
      }
      await server.tenant.lives.detach(child, place)
      expect(open(child).ancestor).toBeNull()
      expect(open(child).startLsn).toBe(START_LSN)
      expect(open(late).ancestor?.timeline.timelineId).toBe(middle)
      expect(open(equal).ancestor?.timeline.timelineId).toBe(child)
      expect(await sums(open(child), [4, 5])).toEqual(before)
      expect(await sums(open(child), [3])).toEqual(historyBefore)
      expect(server.tenant.branchPointsOf(child).toSorted((a, b) => a - b)).toEqual([at(3), at(4)])

      // The old parents go, with all of their objects that nobody refers to.
      await server.tenant.lives.delete(late)
      await server.tenant.lives.delete(middle)
      await server.tenant.lives.delete(root)
      await settleDeletions()
      await server.restart({ wipeLocal: true })
      expect(await sums(open(child), [3, 4])).toEqual([...historyBefore, before[0]])
      expect(await sums(open(equal), [4])).toEqual(equalBefore)
      await server.tenant.lives.unarchive(early)
      expect(open(early).ancestor?.timeline.timelineId).toBe(child)
      expect((await objectsOf(root)).length).toBeGreaterThan(0)
      expect((await objectsOf(root)).every((name) => name.includes('/layers/'))).toBe(true)

      // What was taken over goes with its last user.
      for (const id of [early, equal, child]) await server.tenant.lives.delete(id)
      await settleDeletions()
      expect((await server.store.list('')).objects).toEqual([])
      expect(server.errors).toEqual([])
    })
  }

  test('goes on under writes, and images of what was taken over are right', async () => {
    const { child } = await family()
    const place = placeOf(child)
    let round = 5
    let writing = true
    const write = async () => {
      while (writing) {
        putRound(open(child), ++round, 50)
        await open(child).flush()
        await new Promise((resolve) => setTimeout(resolve, 1))
      }
    }
    const writer = write()
    await new Promise((resolve) => setTimeout(resolve, 20))
    await server.tenant.lives.detach(child, place)
    const then = round
    await expect.poll(() => round).toBeGreaterThan(Math.max(then, 7))
    writing = false
    await writer
    const rounds = [2, 3, 4, 5, 7, round]
    const before = await sums(open(child), rounds)
    await open(child).createImageLayers()
    expect(await sums(open(child), rounds)).toEqual(before)
    await server.restart({ wipeLocal: true })
    expect(await sums(open(child), rounds)).toEqual(before)
  })

  test('names the place it was asked for when that is not where the timeline branches', async () => {
    const { child } = await family()
    const place = { ancestorTimelineId: root, ancestorLsn: at(2) }
    await expect(server.tenant.lives.detach(child, place)).rejects.toMatchObject({
      code: 'conflict',
    })
  })
})
