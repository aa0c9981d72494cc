import { expect, test } from 'vitest'
import { parseTimelineId } from '#libs/ids.ts'
import { chooseUploader, type UploaderCandidate } from './uploader-choice.ts'

const timelineId = parseTimelineId('00000001'.padEnd(32, '0'))
const at = (nodeId: number, commitLsn: number, localStartLsn = 0): UploaderCandidate => ({
  nodeId,
  commitLsn,
  backupLsn: 100,
  localStartLsn,
})
const choose = (own: UploaderCandidate, peers: UploaderCandidate[], misses = 0) =>
  chooseUploader({ timelineId, own, members: [1, 2, 3], peers, misses })

test('all members come to the same choice, and go on to the next one together', () => {
  const all = [at(1, 500), at(2, 500), at(3, 500)]
  for (const misses of [0, 1, 2, 3]) {
    const choices = all.map((own) =>
      choose(
        own,
        all.filter((one) => one !== own),
        misses,
      ),
    )
    expect(new Set(choices).size).toBe(1)
    expect(choices[0]).toBe([2, 3, 1, 2][misses])
  }
})

test('who lags far, lacks the oldest WAL, or is no member does not come first', () => {
  expect(choose(at(1, 2 ** 30), [at(2, 8), at(3, 2 ** 30, 101)])).toBe(1)
  expect(choose(at(1, 500), [at(9, 500)])).toBe(1)
})

test('a peer that only claims to be the best one holds up nobody for long', () => {
  const peers = [at(2, 2 ** 50), at(3, 500)]
  expect(choose(at(1, 500), peers)).toBe(2)
  const later = [1, 2, 3].map((misses) => choose(at(1, 500), peers, misses))
  expect(later).toContain(1)
  expect(later).toContain(3)
  expect(choose(at(1, 500), [at(9, 2 ** 50)])).toBe(2)
})
