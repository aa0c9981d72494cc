/**
 * Groups queued requests: getpage requests for blocks in a row of one relation, at the same LSNs,
 * become one read. Order of requests is kept, so answers can go out in the order they came.
 */
import {
  type GetPageRequest,
  MAX_PAGES_PER_REQUEST,
  type PageStreamRequest,
} from '#libs/protocol/page-stream.ts'

export interface PageBatch {
  kind: 'pages'
  requests: GetPageRequest[]
  /** Blocks in all requests together. */
  count: number
}

export type Batch = PageBatch | { kind: 'single'; request: SingleRequest }
export type SingleRequest = Exclude<PageStreamRequest, GetPageRequest>

export function toBatches(requests: readonly PageStreamRequest[]): Batch[] {
  const batches: Batch[] = []
  for (const request of requests) {
    if (request.kind !== 'getpage') {
      batches.push({ kind: 'single', request })
      continue
    }
    const last = batches.at(-1)
    if (last?.kind === 'pages' && continues(last, request)) {
      last.requests.push(request)
      last.count += request.count
    } else {
      batches.push({ kind: 'pages', requests: [request], count: request.count })
    }
  }
  return batches
}

function continues(batch: PageBatch, next: GetPageRequest): boolean {
  const first = batch.requests[0] as GetPageRequest
  return (
    first.firstBlock + batch.count === next.firstBlock &&
    batch.count + next.count <= MAX_PAGES_PER_REQUEST &&
    first.rel === next.rel &&
    first.db === next.db &&
    first.spc === next.spc &&
    first.fork === next.fork &&
    first.requestLsn === next.requestLsn &&
    first.notModifiedSince === next.notModifiedSince
  )
}
