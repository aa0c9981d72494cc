import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ValueKind } from '../keyspace/key-class.ts'
import { freeMemory } from '../threads/free-memory.ts'
import { LayerMemory, SLAB_BYTES } from './layer-memory.ts'
import { OpenLayer } from './open-layer.ts'

const VALUE_BYTES = SLAB_BYTES / 4
const turn = () => new Promise((resolve) => setImmediate(resolve))

/** Values of one byte repeated, each at its own LSN and block, in slabs of the usual size from some on. */
function fill(layer: OpenLayer, count: number, byte: number): void {
  const value = Buffer.alloc(VALUE_BYTES, byte)
  for (let blk = 0; blk < count; blk++) {
    layer.put(1, blk, blk + 1, ValueKind.Image, value, 0, value.length)
  }
  layer.link()
}

function read(layer: OpenLayer, blk: number): Buffer {
  let found = Buffer.alloc(0)
  layer.collect(layer.find(1, blk), Number.POSITIVE_INFINITY, {
    push: (_kind, _lsn, value) => {
      found = value as Buffer<ArrayBuffer>
    },
  })
  return found
}

function isAll(value: Buffer, byte: number): boolean {
  return value.length === VALUE_BYTES && value.equals(Buffer.alloc(VALUE_BYTES, byte))
}

describe('memory of layers that are gone', () => {
  test('is used again at once when no reader was given a slice', () => {
    const memory = new LayerMemory()
    const first = new OpenLayer(1, memory)
    fill(first, 16, 1)
    expect(memory.freeBytes).toBe(0)
    first.release()
    const free = memory.freeBytes
    expect(free).toBeGreaterThan(SLAB_BYTES)
    const second = new OpenLayer(1, memory)
    fill(second, 16, 2)
    expect(memory.freeBytes).toBeLessThan(SLAB_BYTES)
    expect(isAll(read(second, 15), 2)).toBe(true)
    expect(() => first.find(1, 0)).toThrow(/not looked at any more/)
  })

  test('comes back when nobody refers to the slices that were given out', async () => {
    const memory = new LayerMemory()
    const held: Buffer[] = []
    ;(() => {
      const layer = new OpenLayer(1, memory)
      fill(layer, 16, 1)
      for (let blk = 0; blk < 16; blk++) held.push(read(layer, blk))
      layer.release()
    })()
    const rows = memory.freeBytes
    expect(rows).toBeLessThan(SLAB_BYTES)
    freeMemory()
    await turn()
    expect(memory.freeBytes).toBe(rows)
    held.length = 0
    const until = Date.now() + 10_000
    while (memory.freeBytes === rows && Date.now() < until) {
      freeMemory()
      await turn()
    }
    expect(memory.freeBytes).toBeGreaterThanOrEqual(rows + SLAB_BYTES)
  })

  test('rows that are used again keep what the layer had before it became large', () => {
    const memory = new LayerMemory()
    const value = Buffer.alloc(4)
    const layerOf = (count: number, told: boolean) => {
      const layer = new OpenLayer(1, memory)
      for (let index = 0; index < count; index++) {
        value.writeUInt32LE(index)
        layer.put(1, index % 1000, index + 1, ValueKind.Image, value, 0, 4)
        if (told && index === 5000) layer.describe()
      }
      return layer
    }
    const newest = (layer: OpenLayer, blk: number): number => {
      let found = -1
      const push = (_kind: number, _lsn: number, bytes: Buffer) => {
        found = bytes.readUInt32LE(0)
      }
      for (let lsn = 30_001; found < 0 || lsn > 1; lsn = found + 1) {
        if (!layer.collect(layer.find(1, blk), lsn, { push })) break
        if (found < 1000) return found
      }
      return found
    }
    const first = layerOf(40_000, false)
    first.release()
    const free = memory.freeBytes
    expect(free).toBeGreaterThan(40_000 * 32)
    const second = layerOf(30_000, false)
    expect(memory.freeBytes).toBe(0)
    for (let blk = 0; blk < 1000; blk++) expect(newest(second, blk)).toBe(blk)
    second.release()
    expect(memory.freeBytes).toBe(free)
    const third = layerOf(30_000, true)
    expect(memory.freeBytes).toBe(free)
    for (let blk = 0; blk < 1000; blk++) expect(newest(third, blk)).toBe(blk)
  })

  test('is not used again while what was held may be read', () => {
    const memory = new LayerMemory()
    const layer = new OpenLayer(1, memory)
    fill(layer, 12, 1)
    const held = layer.hold(Buffer.alloc(VALUE_BYTES, 2), 0)
    layer.release()
    const next = new OpenLayer(1, memory)
    fill(next, 16, 3)
    expect(isAll(held, 2)).toBe(true)
  })

  test('never changes under a reader, whatever comes and goes', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(14), fc.array(fc.nat(14), { maxLength: 3 }), fc.nat(3)), {
          minLength: 2,
          maxLength: 6,
        }),
        async (plan) => {
          const memory = new LayerMemory()
          const held: { value: Buffer; byte: number; untilRound: number }[] = []
          for (const [round, [count, blks, rounds]] of plan.entries()) {
            const layer = new OpenLayer(1, memory)
            fill(layer, count, round + 1)
            for (const blk of blks) {
              if (blk >= count) continue
              held.push({ value: read(layer, blk), byte: round + 1, untilRound: round + rounds })
            }
            layer.release()
            freeMemory()
            await turn()
            for (const { value, byte } of held) expect(isAll(value, byte)).toBe(true)
            const kept = held.filter(({ untilRound }) => untilRound > round)
            held.splice(0, held.length, ...kept)
          }
        },
      ),
      { numRuns: 6 },
    )
  })
})
