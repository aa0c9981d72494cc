/**
 * A thread that reads a layer while another thread writes it, as fast as it can: version i is of
 * block i % 61 at LSN i, an image when i % 5 is 0, and its value repeats i. Checks each answer at the
 * LSN that it was told of last; reports how many answers were right, or the first wrong one.
 */
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { isBaseKind } from '../../keyspace/key-class.ts'
import { type LayerDescription, type LayerNews, OpenLayer } from '../open-layer.ts'

export const READ_BLOCKS = 61

export interface ReaderSetup {
  port: MessagePort
  description: LayerDescription
}

export interface ReaderNews {
  news: LayerNews
  lsn: number
  isLast: boolean
}

const { port, description } = workerData as ReaderSetup
const layer = OpenLayer.open(description)
let lsn = 0
let reads = 0
let ahead = 0

/** LSNs of the block's chain below the ceiling, down to an image. */
function expectedChain(blk: number): number[] {
  const chain: number[] = []
  let at = lsn - ((((lsn - blk) % READ_BLOCKS) + READ_BLOCKS) % READ_BLOCKS)
  for (; at > 0; at -= READ_BLOCKS) {
    chain.push(at)
    if (at % 5 === 0) break
  }
  return chain
}

function check(blk: number): string | null {
  const seen: number[] = []
  const key = layer.find(7, blk)
  if (key >= 0) {
    layer.collect(key, lsn + 1, {
      push(kind, at, value) {
        seen.push(at)
        const isRight = isBaseKind(kind) === (at % 5 === 0) && value.readUInt32LE(0) === at
        if (!isRight || value.readUInt32LE(value.length - 4) !== at) seen.push(-1)
      },
    })
  }
  const expected = expectedChain(blk)
  if (seen.join() === expected.join()) return null
  return `block ${blk} at ${lsn}: ${seen.join()} instead of ${expected.join()}`
}

function readOn(): string | null {
  for (;;) {
    const received = receiveMessageOnPort(port) as { message: ReaderNews } | undefined
    if (received) {
      layer.learn(received.message.news)
      lsn = received.message.lsn
      ahead++
    }
    for (let blk = 0; blk < READ_BLOCKS; blk++) {
      const wrong = check(blk)
      if (wrong !== null) return wrong
      reads++
    }
    if (received?.message.isLast) return null
  }
}

port.postMessage('reading')
const wrong = readOn()
port.postMessage({ wrong, reads, ahead })
