import { describe, expect, test } from 'vitest'
import type { GetPageRequest, PageStreamRequest } from '#libs/protocol/page-stream.ts'
import { toBatches } from './batch.ts'

const page = (firstBlock: number, count = 1, more: Partial<GetPageRequest> = {}) =>
  ({
    kind: 'getpage',
    requestId: BigInt(firstBlock),
    requestLsn: 100,
    notModifiedSince: 50,
    spc: 1663,
    db: 5,
    rel: 16384,
    fork: 0,
    firstBlock,
    count,
    ...more,
  }) as GetPageRequest

const shape = (requests: PageStreamRequest[]) =>
  toBatches(requests).map((batch) => (batch.kind === 'pages' ? batch.count : batch.request.kind))

describe('batches of requests', () => {
  test('blocks in a row become one read', () => {
    expect(shape([page(0), page(1), page(2, 4), page(6)])).toEqual([7])
  })

  test('a gap, another relation, fork or LSN starts a new one', () => {
    expect(shape([page(0), page(2)])).toEqual([1, 1])
    expect(shape([page(0), page(1, 1, { rel: 1 })])).toEqual([1, 1])
    expect(shape([page(0), page(1, 1, { fork: 2 })])).toEqual([1, 1])
    expect(shape([page(0), page(1, 1, { notModifiedSince: 51 })])).toEqual([1, 1])
    expect(shape([page(0), page(1, 1, { requestLsn: 101 })])).toEqual([1, 1])
  })

  test('a run is cut at 64 blocks', () => {
    const requests = Array.from({ length: 100 }, (_, block) => page(block))
    expect(shape(requests)).toEqual([64, 36])
    expect(shape([page(0, 64), page(64)])).toEqual([64, 1])
  })

  test('order is kept around other requests', () => {
    const nblocks = { ...page(0), kind: 'nblocks' } as unknown as PageStreamRequest
    expect(shape([page(0), nblocks, page(1)])).toEqual([1, 'nblocks', 1])
  })
})
