import { expect, test } from 'vitest'
import { discoveryMessage } from '../../test_runner/fixtures/discovery-message.ts'
import { newTenantId, newTimelineId } from '../ids.ts'
import { DiscoveryListeners } from './discovery.ts'
import { DiscoveryHub, type HubSubscription, QUEUE_FRAMES, REMEMBER_MS } from './hub.ts'
import { type DiscoveryFrame, FrameSplitter, type TimelineKey } from './message.ts'
import { Outbox } from './outbox.ts'

const tenantId = newTenantId()
const [one, two] = [newTimelineId(), newTimelineId()].map((timelineId) => ({
  tenantId,
  timelineId,
}))
const [ONE, TWO] = [one as TimelineKey, two as TimelineKey]

function news(key: TimelineKey, nodeId: number, flushLsn: number): DiscoveryFrame {
  return { kind: 'message', ...discoveryMessage(key, nodeId, flushLsn) }
}

/** [node, flush] of what waits; requests as null. */
function heard(subscription: HubSubscription): ([number, number] | null)[] {
  const frames = new FrameSplitter().push(subscription.take() ?? Buffer.alloc(0))
  return frames.map((frame) => (frame.kind === 'message' ? [frame.nodeId, frame.flushLsn] : null))
}

test('each subscriber hears its timeline, and is woken once', () => {
  const hub = new DiscoveryHub()
  let woken = 0
  const all = hub.subscribe(null, () => woken++, 0)
  const first = hub.subscribe(ONE, () => {}, 0)
  hub.publish([news(ONE, 1, 10), news(TWO, 1, 20), { kind: 'request', ...ONE }], 0)
  expect(woken).toBe(1)
  expect(heard(all)).toEqual([[1, 10], [1, 20], null])
  expect(heard(first)).toEqual([[1, 10], null])
  expect(all.take()).toBeNull()
  hub.publish([news(TWO, 1, 30)], 1)
  expect(woken).toBe(2)
  expect(first.waiting).toBe(0)
  all.close()
  hub.publish([news(TWO, 1, 40)], 2)
  expect(heard(all)).toEqual([[1, 30]])
  expect(hub.subscribers).toBe(1)
})

test('who comes later hears the latest of each safekeeper, unless that is old', () => {
  const hub = new DiscoveryHub()
  hub.publish([news(ONE, 1, 10), news(ONE, 2, 20), news(TWO, 1, 30)], 0)
  hub.publish([news(ONE, 1, 11), { kind: 'request', ...ONE }], 1000)
  expect(heard(hub.subscribe(ONE, () => {}, 2000))).toEqual([
    [2, 20],
    [1, 11],
  ])
  expect(heard(hub.subscribe(null, () => {}, REMEMBER_MS + 500))).toEqual([[1, 11]])
})

test('a subscriber that takes nothing loses the oldest frames and costs bounded memory', () => {
  const hub = new DiscoveryHub()
  const slow = hub.subscribe(null, () => {}, 0)
  const fast = hub.subscribe(null, () => {}, 0)
  const total = 3 * QUEUE_FRAMES + 5
  for (let flush = 1; flush <= total; flush += 1) {
    hub.publish([news(ONE, 1, flush)], 0)
    expect(heard(fast)).toEqual([[1, flush]])
  }
  expect(slow.waiting).toBe(QUEUE_FRAMES)
  expect(hub.dropped).toBe(total - QUEUE_FRAMES)
  const kept = heard(slow)
  expect(kept[0]).toEqual([1, total - QUEUE_FRAMES + 1])
  expect(kept.at(-1)).toEqual([1, total])
})

test('what waits to be sent is the newest of each safekeeper and timeline', () => {
  const outbox = new Outbox()
  for (const frame of [news(ONE, 1, 10), news(TWO, 1, 20), news(ONE, 1, 11)]) outbox.put(frame)
  outbox.put({ kind: 'request', ...ONE })
  outbox.put({ kind: 'request', ...ONE })
  expect(outbox.take(2)).toEqual([news(TWO, 1, 20), news(ONE, 1, 11)])
  expect(outbox.take(9)).toEqual([{ kind: 'request', ...ONE }])
  expect(outbox.size).toBe(0)
})

test('listeners come and go by themselves', () => {
  const listeners = new DiscoveryListeners()
  const seen: string[] = []
  const removeAll = listeners.add(null, () => seen.push('all'))
  const listener = () => seen.push('one')
  const removeOne = listeners.add(ONE, listener)
  const removeAgain = listeners.add(ONE, listener)
  listeners.tell(news(ONE, 1, 1))
  listeners.tell(news(TWO, 1, 1))
  removeOne()
  removeOne()
  listeners.tell(news(ONE, 1, 1))
  removeAgain()
  removeAll()
  listeners.tell(news(ONE, 1, 1))
  expect(seen).toEqual(['all', 'one', 'one', 'all', 'all', 'one'])
  expect(listeners.size).toBe(0)
})
