import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { OpenLayer } from './open-layer.ts'

const { Record, RecordInit, Image, NativeOp } = ValueKind

function put(layer: OpenLayer, lsn: number, kind: ValueKind, text: string, slot = 1, blk = 2) {
  const bytes = Buffer.from(`<${text}>`)
  layer.put(slot, blk, lsn, kind, bytes, 1, text.length)
}

function collect(layer: OpenLayer, ceiling: number, slot = 1, blk = 2): [string, boolean] {
  const seen: string[] = []
  const key = layer.find(slot, blk)
  if (key < 0) return ['', false]
  const push = (kind: number, lsn: number, value: Buffer) => {
    seen.push(`${lsn}${kind === Image ? 'I' : ''}${value.length < 10 ? value.toString() : ''}`)
  }
  const done = layer.collect(key, ceiling, { push })
  return [seen.join(' '), done]
}

describe('chains', () => {
  test('give what lies below the ceiling, newest first, down to a base', () => {
    const layer = new OpenLayer(10)
    put(layer, 10, Record, 'a')
    put(layer, 20, RecordInit, 'b')
    put(layer, 20, NativeOp, 'c')
    put(layer, 30, Record, 'd')
    expect(collect(layer, 100)).toEqual(['30d 20c 20b', true])
    expect(collect(layer, 30)).toEqual(['20c 20b', true])
    expect(collect(layer, 20)).toEqual(['10a', false])
    expect(collect(layer, 10)).toEqual(['', false])
    expect(collect(layer, 100, 1, 3)).toEqual(['', false])
  })

  test('an own image stands for what is at or below it, and only that', () => {
    const layer = new OpenLayer(10)
    for (const lsn of [10, 20, 30, 40]) put(layer, lsn, Record, 'r')
    const page = Buffer.alloc(PAGE_SIZE)
    layer.putOwnImage(1, 2, 30, page)
    layer.putOwnImage(1, 2, 20, page)
    expect(collect(layer, 100)).toEqual(['40r 30I', true])
    expect(collect(layer, 31)).toEqual(['30I', true])
    expect(collect(layer, 30)).toEqual(['20r 10r', false])
    put(layer, 50, Record, 'r')
    layer.putOwnImage(1, 2, 55, page)
    expect(collect(layer, 100)).toEqual(['55I', true])
    expect(collect(layer, 55)).toEqual(['50r 40r 30I', true])
    const order = layer.versionsOf(layer.find(1, 2)).toReversed()
    expect(written(layer, order).map(({ lsn }) => lsn)).toEqual([10, 20, 30, 30, 40, 50, 55])
    expect(layer.ownImageBytes).toBe(2 * PAGE_SIZE)
  })

  test('the cap is told when it is passed, again after as much, anew after an image', () => {
    const layer = new OpenLayer(1)
    const told: number[] = []
    const putAll = (from: number, to: number, kind: ValueKind) => {
      for (let lsn = from; lsn <= to; lsn++) {
        put(layer, lsn, kind, 'r')
        if (layer.takeHot().length > 0) told.push(lsn)
      }
    }
    putAll(1, 200, Record)
    expect(told).toEqual([64, 128, 192])
    layer.putOwnImage(1, 2, 190, Buffer.alloc(PAGE_SIZE))
    putAll(201, 300, Record)
    expect(told).toEqual([64, 128, 192, 254])
    put(layer, 301, Image, 'i')
    putAll(302, 420, NativeOp)
    expect(told).toEqual([64, 128, 192, 254])
    for (let lsn = 421; lsn <= 900; lsn++) put(layer, lsn, Record, 'r')
    expect(layer.takeHot()).toEqual(Array.from({ length: 7 }, () => layer.find(1, 2)))
    expect(layer.takeHot()).toEqual([])
  })
})

test('unpublished versions move to the next layer in order', () => {
  const layer = new OpenLayer(1)
  put(layer, 1, Image, 'base')
  put(layer, 2, Record, 'two')
  put(layer, 3, Record, 'three')
  layer.putOwnImage(1, 2, 2, Buffer.alloc(PAGE_SIZE))
  put(layer, 4, Record, 'four')
  put(layer, 4, Record, 'only', 7, 7)
  const next = new OpenLayer(3)
  layer.moveUnpublished(2, next)
  expect(collect(layer, 100)).toEqual(['2I', true])
  expect(collect(layer, 2)).toEqual(['1Ibase', true])
  expect(collect(next, 100)).toEqual(['4four 3three', false])
  expect(collect(next, 100, 7, 7)).toEqual(['4only', false])
  expect([...layer.keysBySlot().keys()]).toEqual([1])
})

test('versions in the order of a file are the chains of the keys, oldest first', () => {
  const step = fc.record({
    blk: fc.integer({ min: 0, max: 5 }),
    image: fc.boolean(),
    isUnpublished: fc.boolean(),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const layer = new OpenLayer(1)
      const page = Buffer.alloc(PAGE_SIZE)
      for (const [index, { blk, image }] of steps.entries()) {
        put(layer, index + 1, Record, 'r', blk % 2, blk)
        if (image) layer.putOwnImage(blk % 2, blk, index + 1, page)
      }
      const last = steps.findIndex(({ isUnpublished }) => isUnpublished)
      if (last >= 0) {
        const kept = new OpenLayer(1)
        for (const [index, { blk }] of steps.entries()) {
          put(kept, index + 1, Record, 'r', blk % 2, blk)
        }
        kept.moveUnpublished(last, new OpenLayer(last + 1))
        expectOrder(kept)
      }
      expectOrder(layer)
    }),
  )
})

function expectOrder(layer: OpenLayer): void {
  const lists = [...layer.keysBySlot().values()]
  const expected = lists.flatMap((keys) =>
    [...keys].flatMap((key) => [...layer.versionsOf(key).toReversed()]),
  )
  const order = layer.versionsInOrder(lists)
  expect([...order]).toEqual(expected)
}

/** What a writer gets that wants to be waited for after every third version. */
function written(layer: OpenLayer, order: Uint32Array): { lsn: number; value: string }[] {
  const values = Buffer.alloc(1_000_000)
  const claims: { lsn: number; at: number; length: number }[] = []
  let used = 0
  const writer = {
    values,
    valuesView: new DataView(values.buffer, values.byteOffset, values.length),
    get isBusy() {
      return claims.length % 3 === 0
    },
    claim(_slot: number, _blk: number, lsn: number, _kind: number, length: number) {
      claims.push({ lsn, at: used, length })
      used += length
      return used - length
    },
  }
  for (let at = 0; at < order.length; ) at = layer.writeVersions(order, at, writer)
  return claims.map(({ lsn, at, length }) => ({
    lsn,
    value: values.toString('latin1', at, at + length),
  }))
}

test('values out of held WAL are those that were given, whatever their place and length', () => {
  const piece = fc.record({ skip: fc.nat(40), length: fc.nat(700), isCopied: fc.boolean() })
  const batch = fc.record({ alignment: fc.nat(70), pieces: fc.array(piece, { maxLength: 30 }) })
  fc.assert(
    fc.property(fc.array(batch, { maxLength: 6 }), (batches) => {
      const layer = new OpenLayer(1)
      const expected: string[] = []
      let lsn = 0
      for (const { alignment, pieces } of batches) {
        const length = pieces.reduce((sum, part) => sum + part.skip + part.length, 0)
        const wal = Buffer.from(Uint8Array.from({ length }, (_, index) => index * 7 + lsn))
        const held = layer.hold(wal, alignment)
        const untouched = Buffer.from(wal)
        wal.fill(0)
        let at = 0
        for (const part of pieces) {
          at += part.skip
          const src = part.isCopied ? untouched : held
          layer.put(1, lsn % 5, ++lsn, Record, src, at, part.length)
          expected.push(untouched.toString('latin1', at, at + part.length))
          at += part.length
        }
      }
      const lists = [...layer.keysBySlot().values()]
      const all = written(layer, layer.versionsInOrder(lists))
      expect(all.length).toBe(expected.length)
      for (const { lsn: at, value } of all) expect(value).toBe(expected[at - 1])
    }),
  )
})

test('whoever looks finds all that was put, also a thread that was told', () => {
  const step = fc.record({
    puts: fc.integer({ min: 1, max: 600 }),
    blks: fc.integer({ min: 1, max: 40 }),
    next: fc.constantFrom('look', 'image', 'news', 'nothing'),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 8 }), fc.boolean(), (steps, isToldEarly) => {
      const layer = new OpenLayer(1)
      let other = isToldEarly ? OpenLayer.open(structuredClone(layer.describe())) : null
      const lsns = new Map<number, number[]>()
      const chain = (of: OpenLayer, blk: number) => {
        const found: number[] = []
        const key = of.find(3, blk)
        if (key >= 0) of.collect(key, 1e9, { push: (_kind, lsn) => found.push(lsn) })
        return found
      }
      const expectAll = (of: OpenLayer) => {
        for (const [blk, all] of lsns) expect(chain(of, blk)).toEqual(all)
        expect(of.keyCount).toBe(lsns.size)
      }
      let lsn = 0
      for (const { puts, blks, next } of steps) {
        for (let index = 0; index < puts; index++) {
          const blk = (index * 7) % blks
          put(layer, ++lsn, Record, 'r', 3, blk)
          lsns.set(blk, [lsn, ...(lsns.get(blk) ?? [])])
        }
        if (next === 'look') expectAll(layer)
        if (next === 'image') {
          layer.putOwnImage(3, 0, lsn, Buffer.alloc(PAGE_SIZE))
          lsns.set(0, [lsn])
        }
        if (next === 'news') {
          if (other === null) other = OpenLayer.open(structuredClone(layer.describe()))
          else other.learn(structuredClone(layer.news()))
          expectAll(other)
        }
      }
      expectAll(layer)
    }),
    { numRuns: 60 },
  )
})

test('many keys and large values', () => {
  const layer = new OpenLayer(1)
  const big = Buffer.alloc(20_000_000, 'x')
  layer.put(9, 1, 1, Image, big, 0, big.length)
  for (let blk = 0; blk < 50_000; blk++) put(layer, 2, Image, String(blk), blk % 7, blk)
  expect(layer.keyCount).toBe(50_001)
  for (const blk of [0, 1, 7, 49_999]) {
    expect(collect(layer, 3, blk % 7, blk)[0]).toBe(`2I${blk}`)
  }
  const keys = layer.keysBySlot().get(3) as Uint32Array
  const blks = [...keys].map((key) => layer.keyBlk(key))
  expect(blks).toEqual(blks.toSorted((a, b) => a - b))
  expect(layer.sizeBytes).toBeGreaterThan(20_000_000)
})
