import { describe, expect, it } from 'vitest'
import { WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { append, Member, ModelStore, settle, START } from './testing/model-member.ts'
import { tailName } from './wal-objects.ts'

const MIB = 1024 * 1024

describe('full segments', () => {
  function uploads(member: Member): number[] {
    return member.flying.flatMap(({ effect }) =>
      effect.kind === 'upload-segment' ? [effect.segment] : [],
    )
  }

  it('go up five at a time, and the backup position moves in order', () => {
    const member = new Member(1, new ModelStore(), () => 0.99)
    append(member, 120 * MIB, 1)
    member.commitLsn = member.flushLsn
    member.step({ kind: 'tick' })
    expect(uploads(member)).toEqual([3, 4, 5, 6, 7])
    // random 0.99 picks the newest first.
    for (let count = 0; count < 4; count += 1) member.finish(false)
    while (member.saves.length > 0) member.persist()
    expect(member.durable.backupLsn).toBe(START)
    member.finish(false)
    while (member.flying.some(({ effect }) => effect.kind !== 'upload-segment')) {
      member.finish(false)
    }
    settle([member], 100)
    expect(member.durable.backupLsn).toBe(10 * WAL_SEGMENT_SIZE)
  })

  it('never beyond commit', () => {
    const member = new Member(1, new ModelStore(), () => 0.5)
    append(member, 64 * MIB, 1)
    member.commitLsn = 4 * WAL_SEGMENT_SIZE + 8
    settle([member], 500)
    expect([...member.store.objects.keys()]).toEqual(['3'])
    expect(member.durable.backupLsn).toBe(4 * WAL_SEGMENT_SIZE)
  })

  it('an object with the same bytes is success, with others a halt that keeps all WAL', () => {
    const member = new Member(1, new ModelStore(), () => 0.5)
    append(member, 40 * MIB, 1)
    member.commitLsn = member.flushLsn
    member.remoteConsistentLsn = member.flushLsn
    member.save()
    member.store.objects.set('3', member.bytes(3 * WAL_SEGMENT_SIZE, 4 * WAL_SEGMENT_SIZE))
    member.store.objects.set('4', 'something else')
    settle([member], 2000)
    expect(member.store.puts).toBe(0)
    expect(member.durable.backupLsn).toBeLessThanOrEqual(4 * WAL_SEGMENT_SIZE)
    expect(member.plan.conflict).toMatch(/0\/4000000 holds other bytes/)
    member.inUse = false
    settle([member])
    expect([member.evictions, member.diskStart]).toEqual([0, 3 * WAL_SEGMENT_SIZE])
  })

  it('a member that is chosen and gets nowhere is replaced by the next', () => {
    const members = [1, 2, 3].map((id) => new Member(id, new ModelStore(), () => 0.5))
    for (const member of members) {
      append(member, 40 * MIB, 1)
      member.commitLsn = member.flushLsn
      member.step({ kind: 'tick' })
    }
    expect(members.map((member) => uploads(member).length)).toEqual([2, 0, 0])
    const [, second, third] = members as [Member, Member, Member]
    second.nowMs = 600
    second.step({ kind: 'tick' })
    third.nowMs = 600
    third.step({ kind: 'tick' })
    expect([uploads(second).length, uploads(third).length]).toEqual([2, 0])
  })

  it('what a peer says it has uploaded is compared, not believed', () => {
    const member = new Member(2, new ModelStore(), () => 0.5)
    append(member, 40 * MIB, 1)
    member.commitLsn = member.flushLsn
    const { flushLsn } = member
    member.step({
      kind: 'peers',
      peers: [{ nodeId: 1, commitLsn: flushLsn, backupLsn: flushLsn, localStartLsn: START }],
    })
    // The choice falls on member 2 itself by the timeline's id: let its time pass.
    expect(member.flying.length).toBeGreaterThan(0)
    settle([member], 5000)
    member.check()
    expect(member.durable.backupLsn).toBe(5 * WAL_SEGMENT_SIZE)
  })
})

describe('the tail', () => {
  it('is copied once the log is quiet, after its intent is stored, and replaced when it grew', () => {
    const member = new Member(1, new ModelStore(), () => 0.5)
    append(member, MIB, 1)
    member.commitLsn = member.flushLsn
    member.step({ kind: 'tick' })
    member.nowMs = 1100
    member.step({ kind: 'tick' })
    const first = tailName({ ...member.view, nodeId: 1 })
    expect(member.record.partialBackups).toMatchObject([{ name: first, state: 'uploading' }])
    expect(member.flying.some(({ effect }) => effect.kind === 'upload-tail')).toBe(false)
    member.persist()
    expect(member.flying.some(({ effect }) => effect.kind === 'upload-tail')).toBe(true)
    settle([member], 500)
    append(member, MIB, 1)
    member.commitLsn = member.flushLsn
    settle([member], 2500)
    const second = tailName({ ...member.view, nodeId: 1 })
    expect(member.durable.partialBackups).toMatchObject([{ name: second, state: 'uploaded' }])
    expect([...member.store.objects.keys()]).toEqual([second])
  })

  it('is skipped when the log ends at a segment start', () => {
    const member = new Member(1, new ModelStore(), () => 0.5)
    append(member, 5 * WAL_SEGMENT_SIZE - START, 1)
    member.commitLsn = member.flushLsn
    settle([member])
    expect([...member.store.objects.keys()].sort()).toEqual(['3', '4'])
    expect(member.durable.partialBackups).toEqual([])
  })

  it('is given up when a leader cuts the log while it travels', () => {
    const member = new Member(1, new ModelStore(), () => 0.5)
    append(member, MIB, 1)
    settle([member], 1000)
    member.nowMs += 100
    member.step({ kind: 'tick' })
    while (member.saves.length > 0) member.persist()
    expect(member.flying.some(({ effect }) => effect.kind === 'upload-tail')).toBe(true)
    const { flushLsn } = member
    member.cuts += 1
    member.writes = [
      { term: 0, startLsn: START },
      { term: 2, startLsn: START },
    ]
    member.flushLsn = flushLsn
    settle([member], 500)
    expect(member.durable.partialBackups).toEqual([])
    expect(member.store.objects.size).toBe(0)
  })
})

describe('eviction', () => {
  function idle(): Member {
    const member = new Member(1, new ModelStore(), () => 0.5)
    append(member, 33 * MIB, 1)
    member.commitLsn = member.flushLsn
    member.save()
    settle([member], 500)
    member.inUse = false
    return member
  }

  it('leaves the disk when all is in object storage, and comes back when woken', () => {
    const member = idle()
    settle([member], 6000)
    expect([member.evictions, member.tailOnDisk, member.plan.isPresent]).toEqual([1, false, false])
    member.step({ kind: 'wake' })
    expect(member.awake).toBe(0)
    settle([member], 100)
    expect([member.awake, member.tailOnDisk, member.plan.isPresent]).toEqual([1, true, true])
  })

  it('tells who woke it when it cannot, and can later', () => {
    const member = idle()
    settle([member], 6000)
    member.step({ kind: 'wake' })
    member.finish(true)
    expect([member.asleep, member.awake]).toEqual([1, 0])
    member.step({ kind: 'wake' })
    settle([member], 6000)
    expect(member.awake).toBe(1)
  })

  it('does not leave with a record that has begun and was never finished', () => {
    const member = idle()
    member.begunBytes = 100
    settle([member], 8000)
    expect([member.evictions, member.plan.isPresent]).toEqual([0, true])
    // A new leader has cut it.
    member.begunBytes = 0
    settle([member], 8000)
    expect(member.evictions).toBe(1)
  })

  it('does not leave while it is used, nor with a tail whose object is gone', () => {
    const member = idle()
    member.inUse = true
    settle([member])
    expect(member.evictions).toBe(0)
    const [name] = [...member.store.objects.keys()].filter((key) => key.includes('_'))
    expect(name).toBeDefined()
    // Kept from being checked by `check`, which knows that it must be there.
    const object = member.store.objects.get(name as string) as string
    member.store.objects.set(name as string, `${object} rotten`)
    member.inUse = false
    settle([member], 8000)
    // It was made anew before the timeline left.
    expect(member.evictions).toBe(1)
    expect(member.store.objects.get(name as string)).toBe(object)
  })
})
