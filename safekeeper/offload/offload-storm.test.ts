/** The offload plan under faults, crashes and cuts, against the model of everything around it. */
import { expect, test } from 'vitest'
import { WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { append, Member, ModelStore, settle } from './testing/model-member.ts'

function prng(seed: number): () => number {
  let state = seed + 0x9e3779b9
  return () => {
    state = Math.imul(state ^ (state >>> 15), 0x85ebca6b)
    state = Math.imul(state ^ (state >>> 13), 0xc2b2ae35)
    state ^= state >>> 16
    return (state >>> 0) / 4294967296
  }
}

test('a thousand steps with faults, crashes and cuts, many times over', () => {
  const seen = { evictions: 0, awake: 0, cuts: 0, removed: 0, tails: 0, crashes: 0 }
  for (let seed = 1; seed <= 60; seed += 1) {
    const random = prng(seed)
    const member = new Member(1, new ModelStore(), random)
    const chance = (probability: number) => random() < probability
    let term = 1
    for (let count = 0; count < 1000; count += 1) {
      member.nowMs += random() * (chance(0.1) ? 3000 : 60)
      if (chance(0.3)) append(member, 8 * Math.floor(random() * (chance(0.1) ? 4e6 : 1e5)), term)
      if (chance(0.2)) {
        member.commitLsn += Math.floor(random() * (member.flushLsn - member.commitLsn + 1))
      }
      if (chance(0.1)) member.commitLsn = member.flushLsn
      if (chance(0.05)) {
        member.remoteConsistentLsn = Math.max(member.remoteConsistentLsn, member.commitLsn)
        member.save()
      }
      if (chance(0.02) && member.plan.isPresent && member.inUse) {
        // A new leader keeps what is committed, and something of the rest.
        term += 1
        member.check()
        const { everCommitted, flushLsn } = member
        const cut = everCommitted + Math.floor(random() * (flushLsn - everCommitted + 1))
        member.writes = member.writes.filter((write) => write.startLsn <= cut)
        member.writes.push({ term, startLsn: cut })
        if (cut < flushLsn) member.cuts += 1
        member.flushLsn = cut
        seen.cuts += 1
      }
      if (chance(0.02)) member.inUse = false
      if (chance(0.02)) member.step({ kind: 'wake' })
      if (chance(0.02)) for (const happen of member.store.late.splice(0)) happen()
      if (chance(0.6)) member.persist()
      if (chance(0.6)) member.finish(chance(0.2))
      if (chance(0.01)) {
        member.crash()
        seen.crashes += 1
      }
      member.step({ kind: 'tick' })
      member.check()
    }
    seen.tails += [...member.store.objects.keys()].filter((key) => key.includes('_')).length
    member.step({ kind: 'wake' })
    settle([member], 10_000)
    expect(member.awake).toBeGreaterThan(0)
    member.commitLsn = member.flushLsn
    member.remoteConsistentLsn = member.flushLsn
    member.inUse = false
    member.save()
    settle([member], 30_000)
    expect(member.conflicts).toBe(0)
    // All is quiet: one tail at most is left, the disk is empty.
    expect(member.plan.isPresent).toBe(false)
    expect(member.durable.partialBackups.filter(({ state }) => state !== 'uploaded')).toEqual([])
    expect(member.durable.partialBackups.length).toBeLessThanOrEqual(1)
    seen.evictions += member.evictions
    seen.awake += member.awake
    if (member.diskStart > 3 * WAL_SEGMENT_SIZE) seen.removed += 1
  }
  for (const [what, times] of Object.entries(seen)) expect(times, what).toBeGreaterThan(30)
})
