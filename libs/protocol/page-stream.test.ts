import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ZenithError } from '#libs/errors.ts'
import { parseLsn } from '#libs/lsn.ts'
import {
  decodeRequest,
  decodeResponse,
  encodeDbsizeReply,
  encodeErrorReply,
  encodeExistsReply,
  encodeGetPageReplyHeader,
  encodeNblocksReply,
  encodeRequest,
  encodeSlruReplyHeader,
  encodeTablespaceReply,
  LATEST_LSN,
  PAGE_SIZE,
  type PageStreamRequest,
  requestIdOf,
} from './page-stream.ts'

const hex = (text: string) => Buffer.from(text.replaceAll(/\s/g, ''), 'hex')
const base = { requestId: 7n, requestLsn: parseLsn('1/2000'), notModifiedSince: parseLsn('0/FF') }
const relation = { spc: 1663, db: 5, rel: 16384, fork: 0 }

/** Bytes written out by hand from the drawing, so that a change of the codec cannot hide. */
const GOLDEN_REQUESTS: [PageStreamRequest, string][] = [
  [
    { kind: 'exists', ...base, ...relation, fork: 2 },
    '45 0000000000000007 0000000100002000 00000000000000ff 0000067f 00000005 00004000 02',
  ],
  [
    { kind: 'nblocks', ...base, ...relation },
    '4e 0000000000000007 0000000100002000 00000000000000ff 0000067f 00000005 00004000 00',
  ],
  [
    { kind: 'dbsize', ...base, db: 5 },
    '44 0000000000000007 0000000100002000 00000000000000ff 00000005',
  ],
  [
    { kind: 'tablespace', ...base, spc: 16384 },
    '54 0000000000000007 0000000100002000 00000000000000ff 00004000',
  ],
  [
    {
      kind: 'getpage',
      ...base,
      requestLsn: LATEST_LSN,
      ...relation,
      firstBlock: 65536,
      count: 32,
    },
    `47 0000000000000007 ffffffffffffffff 00000000000000ff 0000067f 00000005 00004000 00
     00010000 0020`,
  ],
  [
    { kind: 'slru', ...base, slru: 1, segment: 9 },
    '53 0000000000000007 0000000100002000 00000000000000ff 01 00000009',
  ],
]

describe('page stream requests', () => {
  test.each(GOLDEN_REQUESTS)('%o has the bytes of the drawing', (request, bytes) => {
    expect(encodeRequest(request).toString('hex')).toBe(hex(bytes).toString('hex'))
    expect(decodeRequest(hex(bytes))).toEqual(request)
  })

  test('every cut of a valid request is refused', () => {
    for (const [, bytes] of GOLDEN_REQUESTS) {
      const frame = hex(bytes)
      for (let length = 0; length < frame.length; length += 1) {
        expect(() => decodeRequest(frame.subarray(0, length))).toThrow(ZenithError)
      }
      expect(() => decodeRequest(Buffer.concat([frame, Buffer.alloc(1)]))).toThrow(ZenithError)
    }
  })

  test('fields out of range are refused by name', () => {
    const getpage = { kind: 'getpage' as const, ...base, ...relation, firstBlock: 0, count: 1 }
    expect(() => decodeRequest(encodeRequest({ ...getpage, count: 0 }))).toThrow('1 to 64 blocks')
    expect(() => decodeRequest(encodeRequest({ ...getpage, count: 65 }))).toThrow('1 to 64 blocks')
    expect(() => decodeRequest(encodeRequest({ ...getpage, fork: 4 }))).toThrow('fork 4')
    expect(() => decodeRequest(encodeRequest({ ...getpage, firstBlock: 0xffffffff }))).toThrow(
      'beyond the largest block',
    )
    expect(() =>
      decodeRequest(encodeRequest({ kind: 'slru', ...base, slru: 4, segment: 0 })),
    ).toThrow('SLRU kind 4')
  })

  test('any bytes give a request or a typed error', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        try {
          decodeRequest(Buffer.from(bytes))
        } catch (error) {
          expect(error).toBeInstanceOf(ZenithError)
        }
      }),
      { numRuns: 2000 },
    )
  })

  test('the id of a broken request is still readable', () => {
    expect(requestIdOf(hex('47 00000000000000ff'))).toBe(255n)
    expect(requestIdOf(hex('47 000000'))).toBeNull()
  })
})

describe('page stream responses', () => {
  const lsn = parseLsn('1/2000')
  const prefix = '000000000000ffff 0000000100002000'

  test('small replies have the bytes of the drawing', () => {
    expect(encodeExistsReply(0xffffn, lsn, true)).toEqual(hex(`65 ${prefix} 01`))
    expect(encodeNblocksReply(0xffffn, lsn, 300)).toEqual(hex(`6e ${prefix} 0000012c`))
    expect(encodeDbsizeReply(0xffffn, lsn, 1n << 40n)).toEqual(hex(`64 ${prefix} 0000010000000000`))
    expect(encodeTablespaceReply(0xffffn, lsn, 8192n, [5, 7])).toEqual(
      hex(`74 ${prefix} 0000000000002000 00000002 00000005 00000007`),
    )
    expect(encodeErrorReply(0xffffn, lsn, '42P01', 'gone\0!')).toEqual(
      hex(`78 ${prefix} 3432503031 676f6e6521 00`),
    )
    expect(encodeGetPageReplyHeader(0xffffn, lsn, 3, 2)).toEqual(hex(`67 ${prefix} 00000003 0002`))
    expect(encodeSlruReplyHeader(0xffffn, lsn, 2)).toEqual(hex(`73 ${prefix} 00000002`))
  })

  test('replies decode to what was encoded', () => {
    const pages = [Buffer.alloc(PAGE_SIZE, 1), Buffer.alloc(PAGE_SIZE, 2)]
    expect(decodeResponse(encodeExistsReply(1n, lsn, false))).toMatchObject({ exists: false })
    expect(decodeResponse(encodeNblocksReply(1n, lsn, 4))).toMatchObject({ blocks: 4 })
    expect(decodeResponse(encodeDbsizeReply(1n, lsn, 5n))).toMatchObject({ sizeBytes: 5n })
    expect(decodeResponse(encodeTablespaceReply(1n, lsn, 6n, [5, 7]))).toMatchObject({
      kind: 'tablespace',
      sizeBytes: 6n,
      databases: [5, 7],
    })
    expect(decodeResponse(encodeErrorReply(1n, lsn, '42P01', 'no such relation'))).toMatchObject({
      kind: 'error',
      sqlState: '42P01',
      message: 'no such relation',
    })
    expect(
      decodeResponse(Buffer.concat([encodeGetPageReplyHeader(1n, lsn, 9, 2), ...pages])),
    ).toEqual({ kind: 'getpage', requestId: 1n, lsn, firstBlock: 9, pages })
    expect(decodeResponse(Buffer.concat([encodeSlruReplyHeader(1n, lsn, 2), ...pages]))).toEqual({
      kind: 'slru',
      requestId: 1n,
      lsn,
      pages,
    })
  })

  test('a count that does not match the length is refused', () => {
    const header = encodeGetPageReplyHeader(1n, lsn, 9, 2)
    expect(() => decodeResponse(Buffer.concat([header, Buffer.alloc(PAGE_SIZE)]))).toThrow(
      'a reply of 2 pages',
    )
    expect(() => decodeResponse(encodeSlruReplyHeader(1n, lsn, 0xffffffff))).toThrow('at most 32')
  })
})
