/** What is kept of a key's history gives the same value at every point as all of it did. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isBaseKind, ValueKind } from '../keyspace/key-class.ts'
import { type Keep, PointWalk, type VersionFacts } from './bottommost-key.ts'

interface Toy extends VersionFacts {
  value: { length: number; id: number }
}

function toy(lsn: number, kind: ValueKind, length = 10, id = lsn): Toy {
  return { kind, lsn, value: { length, id } }
}

/** Newest first, down to one that needs nothing older. */
function chainAt(history: readonly Toy[], lsn: number): Toy[] {
  const below = history.filter((version) => version.lsn <= lsn).reverse()
  const base = below.findIndex(({ kind }) => isBaseKind(kind))
  return base < 0 ? below : below.slice(0, base + 1)
}

interface Options {
  oldestLsn?: number
  isAlive?: (point: number) => boolean
}

function keepsOf(history: readonly Toy[], points: readonly number[], options: Options = {}) {
  const { oldestLsn = 0, isAlive = () => true } = options
  const walk = new PointWalk<Toy>(points, oldestLsn, isAlive)
  let asked = 0
  while (walk.next >= 0) {
    asked++
    walk.take(chainAt(history, points[walk.next] as number))
  }
  return { keeps: walk.keeps(), asked }
}

/** The value at an LSN of a history: the ids of the versions that make it, oldest first. */
function valueAt(history: readonly Toy[], lsn: number): string {
  return chainAt(history, lsn)
    .map(({ value }) => value.id)
    .reverse()
    .join()
}

/** As `valueAt`, from what was kept, with the ancestor's versions below it. */
function keptValueAt(
  keeps: readonly Keep<Toy>[],
  lowestLsn: number,
  ancestor: readonly Toy[],
  lsn: number,
): string {
  const stored: { lsn: number; isBase: boolean; ids: string }[] = ancestor.map((version) => ({
    lsn: version.lsn,
    isBase: isBaseKind(version.kind),
    ids: String(version.value.id),
  }))
  const ids = (chain: readonly Toy[]) =>
    [...chain]
      .reverse()
      .map(({ value }) => value.id)
      .join()
  for (const keep of keeps) {
    if (keep.how === 'base') stored.push({ lsn: lowestLsn, isBase: true, ids: ids(keep.chain) })
    else if (keep.how === 'gone') stored.push({ lsn: keep.lsn, isBase: true, ids: '' })
    else if (keep.how === 'page') stored.push({ lsn: keep.lsn, isBase: true, ids: ids(keep.chain) })
    else {
      for (const { lsn: at, kind, value } of keep.versions) {
        // It lies in the delta, which begins above the lowest point.
        expect(at).toBeGreaterThan(lowestLsn)
        stored.push({ lsn: at, isBase: isBaseKind(kind), ids: String(value.id) })
      }
    }
  }
  const below = stored.filter((version) => version.lsn <= lsn)
  const base = below.findLastIndex(({ isBase }) => isBase)
  return below
    .slice(Math.max(base, 0))
    .map((version) => version.ids)
    .join()
}

describe('what is kept', () => {
  const image = ValueKind.Image
  const record = ValueKind.Record

  test('one image at the lowest point, nothing where nothing is new', () => {
    const history = [toy(10, image), toy(20, record)]
    const { keeps, asked } = keepsOf(history, [50, 60, 70])
    expect(keeps.map(({ how }) => how)).toEqual(['base'])
    expect(asked).toBe(1)
  })

  test('few records stay records, many become a page', () => {
    const few = [toy(10, image), toy(55, record), toy(58, record)]
    expect(keepsOf(few, [50, 60]).keeps).toMatchObject([
      { how: 'base' },
      { how: 'versions', versions: [{ lsn: 55 }, { lsn: 58 }] },
    ])
    const many = [toy(10, image), ...Array.from({ length: 30 }, (_, at) => toy(51 + at, record))]
    expect(keepsOf(many, [50, 90]).keeps).toMatchObject([{ how: 'base' }, { how: 'page', lsn: 80 }])
    const large = [toy(10, image), toy(55, record, 5000)]
    expect(keepsOf(large, [50, 60]).keeps[1]).toMatchObject({ how: 'page', lsn: 55 })
  })

  test('an image is kept once, not with what it hides', () => {
    const history = [toy(10, image), toy(55, record), toy(57, image), toy(58, image)]
    expect(keepsOf(history, [50, 60]).keeps[1]).toMatchObject({
      how: 'versions',
      versions: [{ lsn: 58 }],
    })
  })

  test('a dead key is dropped, unless a value above is made of it', () => {
    const history = [toy(10, image), toy(55, image)]
    const isAlive = (point: number) => point !== 0
    expect(keepsOf(history, [50, 60], { isAlive }).keeps).toMatchObject([
      { how: 'versions', versions: [{ lsn: 55 }] },
    ])
    const needy = [toy(10, image), toy(55, record)]
    expect(keepsOf(needy, [50, 60], { isAlive }).keeps.map(({ how }) => how)).toEqual([
      'base',
      'versions',
    ])
    expect(keepsOf(needy, [50, 60], { isAlive: () => false }).keeps).toEqual([])
  })

  test('what an image dropped without a word is gone from there on only', () => {
    const walk = new PointWalk<Toy>([50, 60, 70], 0, () => true)
    const asked: number[] = []
    while (walk.next >= 0) {
      asked.push(walk.next)
      walk.take(walk.next === 0 ? [toy(10, image)] : [])
    }
    expect(asked).toEqual([2, 1, 0])
    expect(walk.keeps()).toMatchObject([{ how: 'base' }, { how: 'gone', lsn: 51 }])
  })

  test("an ancestor's page is not copied", () => {
    const history = [toy(10, image), toy(55, record)]
    expect(keepsOf(history, [50, 60], { oldestLsn: 41 }).keeps).toMatchObject([
      { how: 'versions', versions: [{ lsn: 55 }] },
    ])
    expect(keepsOf([toy(10, image)], [50, 60], { oldestLsn: 41 }).keeps).toEqual([])
  })
})

test('every value at a point where the key lives is the same as before', () => {
  const version = fc.record({
    gap: fc.integer({ min: 1, max: 4 }),
    kind: fc.constantFrom(
      ValueKind.Image,
      ValueKind.Record,
      ValueKind.NativeOp,
      ValueKind.ZeroPage,
    ),
    length: fc.constantFrom(1, 100, 3000),
  })
  const shape = fc.record({
    versions: fc.array(version, { maxLength: 40 }),
    points: fc.uniqueArray(fc.integer({ min: 30, max: 130 }), { minLength: 1, maxLength: 6 }),
    oldestLsn: fc.constantFrom(0, 30),
    dead: fc.array(fc.boolean(), { minLength: 6, maxLength: 6 }),
  })
  fc.assert(
    fc.property(shape, ({ versions, points: unsorted, oldestLsn, dead }) => {
      const points = unsorted.toSorted((a, b) => a - b)
      let lsn = 0
      const history = [toy(0, ValueKind.Image, 10, 0)]
      for (const { gap, kind, length } of versions) {
        lsn += gap
        history.push(toy(lsn, kind, length))
      }
      const isAlive = (point: number) => !dead[point]
      const { keeps } = keepsOf(history, points, { oldestLsn, isAlive })
      const ancestor = history.filter((one) => one.lsn < oldestLsn)
      for (const [index, point] of points.entries()) {
        if (dead[index]) continue
        const kept = keptValueAt(keeps, points[0] as number, ancestor, point)
        expect(kept).toBe(valueAt(history, point))
      }
      // Above the horizon goes on with what is there.
      const horizon = points.at(-1) as number
      if (dead[points.length - 1]) return
      const above = history.filter((one) => one.lsn > horizon)
      const more = above.map((one) => ({ how: 'versions' as const, versions: [one] }))
      for (const { lsn: at } of above) {
        const kept = keptValueAt([...keeps, ...more], points[0] as number, ancestor, at)
        expect(kept).toBe(valueAt(history, at))
      }
    }),
    { numRuns: 2000 },
  )
})
