import { once } from 'node:events'
import { MessageChannel, Worker } from 'node:worker_threads'
import { expect, test } from 'vitest'
import { ValueKind } from '../keyspace/key-class.ts'
import { OpenLayer } from './open-layer.ts'

const BLOCKS = 61
const VERSIONS = 400_000

test('a thread that reads while another writes sees whole versions only', async () => {
  const layer = new OpenLayer(1)
  const { port1, port2 } = new MessageChannel()
  const worker = new Worker(new URL('./testing/layer-reader.ts', import.meta.url), {
    workerData: { port: port2, description: layer.describe() },
    transferList: [port2],
  })
  try {
    await once(port1, 'message')
    const answer = once(port1, 'message')
    const value = Buffer.alloc(600)
    for (let lsn = 1; lsn <= VERSIONS; lsn++) {
      const length = 8 + (lsn % 40) * (lsn % 1000 === 0 ? 14 : 2)
      value.writeUInt32LE(lsn, 0)
      value.writeUInt32LE(lsn, length - 4)
      const kind = lsn % 5 === 0 ? ValueKind.Image : ValueKind.Record
      layer.put(7, lsn % BLOCKS, lsn, kind, value, 0, length)
      // Keys that nobody asks for make the hash and the rows grow under the reader.
      if (lsn % 8 === 0) layer.put(8, lsn, lsn, ValueKind.Image, value, 0, 8)
      const isLast = lsn === VERSIONS
      if (isLast || lsn % 997 === 0) port1.postMessage({ news: layer.news(), lsn, isLast })
    }
    const [result] = await answer
    expect(result.wrong).toBe(null)
    expect(result.reads).toBeGreaterThan(BLOCKS * 10)
    expect(result.ahead).toBeGreaterThan(10)
  } finally {
    await worker.terminate()
    port1.close()
  }
})

test('a thread that is told of a layer late finds all that was put before', () => {
  const layer = new OpenLayer(1)
  const value = Buffer.from('value')
  for (let lsn = 1; lsn <= 1000; lsn++) {
    layer.put(1, lsn % 300, lsn, ValueKind.Record, value, 0, value.length)
  }
  const other = OpenLayer.open(structuredClone(layer.describe()))
  expect(other.versionCount).toBe(1000)
  expect(other.keyCount).toBe(300)
  for (let lsn = 1001; lsn <= 1003; lsn++) {
    layer.put(1, 500, lsn, ValueKind.Record, value, 0, value.length)
  }
  expect(other.find(1, 500)).toBe(-1)
  other.learn(structuredClone(layer.news()))
  const lsns: number[] = []
  other.collect(other.find(1, 500), 1e9, { push: (_kind, lsn) => lsns.push(lsn) })
  expect(lsns).toEqual([1003, 1002, 1001])
})

test('another thread writes on where one has stopped', () => {
  const first = new OpenLayer(1)
  const value = Buffer.from('value')
  for (let lsn = 1; lsn <= 3000; lsn++) {
    first.put(1, lsn % 700, lsn, ValueKind.Record, value, 0, value.length)
  }
  const second = OpenLayer.open(structuredClone(first.describe()))
  for (let lsn = 3001; lsn <= 9000; lsn++) {
    second.put(1, lsn % 1900, lsn, ValueKind.Record, value, 0, value.length)
  }
  second.putOwnImage(1, 5, 9000, Buffer.alloc(8192, 1))
  first.learn(structuredClone(second.news()))
  expect(first.sizeBytes).toBe(second.sizeBytes)
  first.put(1, 5, 9001, ValueKind.Record, value, 0, value.length)
  const chain = (layer: OpenLayer, blk: number) => {
    const lsns: number[] = []
    const key = layer.find(1, blk)
    if (key >= 0) layer.collect(key, 1e9, { push: (_kind, lsn) => lsns.push(lsn) })
    return lsns
  }
  expect(chain(first, 5)).toEqual([9001, 9000])
  expect(chain(first, 1899)).toEqual([7599, 5699, 3799])
  second.learn(structuredClone(first.news()))
  expect(chain(second, 5)).toEqual([9001, 9000])
  expect(second.versionCount).toBe(9002)
})
