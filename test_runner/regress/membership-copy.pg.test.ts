/**
 * Copies of a timeline, deletions that stay, and members of a higher generation, on real safekeepers
 * that are told what to do as the control plane would tell them.
 */
import { createHash } from 'node:crypto'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { NodeInfo } from '#libs/api/node-info.ts'
import { callSafekeeper, type MemberState, type PullAnswer } from '#libs/api/safekeeper.ts'
import { ZenithError } from '#libs/errors.ts'
import { parseLsn } from '#libs/lsn.ts'
import type { MemberConfiguration } from '#libs/protocol/wal-push.ts'
import { eventually } from '../fixtures/eventually.ts'
import { FaultProxy } from '../fixtures/fault-proxy.ts'
import { WalFollower } from '../fixtures/wal-follower.ts'
import { WalService } from '../fixtures/wal-service.ts'

const urlOf = (service: WalService, index: number) => service.all[index]?.url ?? ''
const infosOf = (service: WalService, ids: number[]) =>
  ids.flatMap((id) => service.all[id - 1]?.info ?? [])

function joint(service: WalService, ids: number[], generation = 2): MemberConfiguration {
  return { generation, members: service.members, newMembers: infosOf(service, ids) }
}

/** Asks for a copy on safekeeper `index` until it is there. */
async function pull(
  service: WalService,
  index: number,
  options: {
    from: readonly (number | NodeInfo)[]
    configuration: MemberConfiguration
    minimum?: MemberState
  },
): Promise<PullAnswer> {
  const { tenantId, timelineId } = service
  while (true) {
    const answer = await callSafekeeper(urlOf(service, index), 'pull', {
      params: { tenantId, timelineId },
      body: {
        donors: options.from.flatMap((one) =>
          typeof one === 'number' ? infosOf(service, [one]) : [one],
        ),
        configuration: options.configuration,
        minimum: options.minimum ?? null,
      },
    })
    if (answer.done !== null) return answer
    await sleep(50)
  }
}

const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => 'done',
    (error: unknown) => (error instanceof ZenithError ? error.code : String(error)),
  )

test('a copy is byte for byte the log of its donor, from a majority that goes on committing', async () => {
  await using service = await WalService.start({ safekeepers: 3, spares: 1 })
  const { tenantId, timelineId } = service
  const proposer = await service.startCompute()
  await service.postgres.query('CREATE TABLE t AS SELECT generate_series(1, 200000) AS a')
  await service.postgres.query('SELECT pg_switch_wal()')
  await service.postgres.query('INSERT INTO t SELECT generate_series(1, 50000)')
  const load = service.postgres.query('INSERT INTO t SELECT generate_series(1, 100000)')
  const configuration = joint(service, [1, 2, 4])
  const { done } = await pull(service, 3, { from: [1, 2], configuration })
  await load
  expect(done).toMatchObject({ generation: 2, term: proposer.status().term })
  const flush = parseLsn(done?.flushLsn ?? '0/0')
  expect(flush).toBeGreaterThan(service.startLsn + 16 * 1024 * 1024)
  const digests = await Promise.all(
    [0, 3].map((index) => service.digest(index, service.startLsn, flush)),
  )
  expect(digests[1]).toBe(digests[0])
  // Asked for again it is there already, with what it has; other members are refused.
  const again = await pull(service, 3, { from: [1], configuration })
  expect(again.done).toMatchObject({ generation: 2 })
  expect(await codeOf(pull(service, 3, { from: [1], configuration: joint(service, [1, 2]) }))).toBe(
    'invalid_argument',
  )

  // It survives a crash, and then a deletion does.
  await service.all[3]?.process.stop('SIGKILL')
  await service.all[3]?.process.start()
  const status = await service.timeline(3)
  expect(status).toMatchObject({ flushLsn: done?.flushLsn, generation: 2 })
  expect(status.localStartLsn).toBe(status.startLsn)
  const remove = (generation: number) =>
    callSafekeeper(urlOf(service, 3), 'deleteTimeline', {
      params: { tenantId, timelineId },
      query: { generation: String(generation) },
    })
  expect(await codeOf(remove(1))).toBe('precondition_failed')
  expect(await remove(3)).toEqual({ deleted: true })
  expect(await remove(3)).toEqual({ deleted: false })
  for (const restarted of [false, true]) {
    if (restarted) {
      await service.all[3]?.process.stop('SIGKILL')
      await service.all[3]?.process.start()
    }
    expect(await codeOf(pull(service, 3, { from: [1], configuration }))).toBe('precondition_failed')
    const older = { ...configuration, generation: 3 }
    expect(await codeOf(pull(service, 3, { from: [1], configuration: older }))).toBe(
      'precondition_failed',
    )
    const create = callSafekeeper(urlOf(service, 3), 'createTimeline', {
      params: { tenantId, timelineId },
      body: {
        startLsn: status.startLsn,
        systemId: String(service.systemId),
        generation: 3,
        members: infosOf(service, [1, 2, 4]),
      },
    })
    expect(await codeOf(create)).toBe('precondition_failed')
    expect(await callSafekeeper(urlOf(service, 3), 'listTombstones')).toEqual([
      { tenantId, timelineId, generation: 3 },
    ])
  }
  // A newer generation may have it again.
  const newer = joint(service, [1, 2, 4], 4)
  expect((await pull(service, 3, { from: [3], configuration: newer })).done?.generation).toBe(4)
})

test('a copy that breaks off leaves nothing, and a damaged timeline is replaced by a whole one', async () => {
  await using service = await WalService.start({ safekeepers: 3 })
  const { tenantId, timelineId } = service
  const proposer = await service.startCompute()
  await service.postgres.query('CREATE TABLE t AS SELECT generate_series(1, 300000) AS a')
  const configuration = joint(service, [1, 2, 3])
  // The disk of one member is gone: it has no vote, and answers that it has no such timeline.
  const [, , third] = service.all
  await third?.process.stop('SIGKILL')
  rmSync(join(third?.dir ?? '', 'tenants'), { recursive: true })
  rmSync(join(third?.dir ?? '', 'incarnation'))
  await third?.process.start()
  expect(await codeOf(service.timeline(2))).toBe('not_found')

  // What it may have promised is more than a donor has: that donor will not do.
  const far: MemberState = { generation: 1, term: 1, lastLogTerm: 1000, flushLsn: '7F/0' }
  expect(await codeOf(pull(service, 2, { from: [1], configuration, minimum: far }))).toBe(
    'unavailable',
  )
  expect(await codeOf(service.timeline(2))).toBe('not_found')

  // Killed in the middle, it starts without the copy.
  const [donor] = service.members as [NodeInfo]
  await using proxy = await FaultProxy.start({ host: donor.host, port: donor.pgPort })
  proxy.stallAfter('to-client', 1024 * 1024)
  const broken = pull(service, 2, {
    from: [{ ...donor, host: proxy.host, pgPort: proxy.port }],
    configuration,
  }).catch(() => null)
  await eventually(() => proxy.passedBytes['to-client'] >= 1024 * 1024, 'the middle of the copy')
  await third?.process.stop('SIGKILL')
  await broken
  await third?.process.start()
  expect(await codeOf(service.timeline(2))).toBe('not_found')
  const term = (proposer.status().term ?? 0) + 5
  const minimum: MemberState = { generation: 1, term, lastLogTerm: 1, flushLsn: '0/0' }
  const { done } = await pull(service, 2, { from: [1, 2], configuration, minimum })
  expect(done?.term).toBe(term)

  // A control file that cannot be read keeps the timeline shut until a copy takes its place.
  await third?.process.stop('SIGKILL')
  writeFileSync(join(service.walDir(2), 'safekeeper.control'), 'not a control file')
  await third?.process.start()
  expect(await codeOf(service.timeline(2))).toBe('corrupt')
  const { done: repaired } = await pull(service, 2, { from: [1, 2], configuration, minimum })
  const flush = parseLsn(repaired?.flushLsn ?? '0/0')
  const [first, copy] = await Promise.all(
    [0, 2].map((index) => service.digest(index, service.startLsn, flush)),
  )
  expect(copy).toBe(first)
  await expect(
    callSafekeeper(urlOf(service, 2), 'getTimeline', { params: { tenantId, timelineId } }),
  ).resolves.toMatchObject({ generation: 2 })
})

test('a copy begins where object storage ends, also of a timeline that has left its disk', async () => {
  await using service = await WalService.start({
    safekeepers: 1,
    spares: 1,
    offload: { tail_after_s: 0.3, evict_after_s: 1, takeover_s: 1 },
  })
  const proposer = await service.startCompute()
  await using follower = new WalFollower(service.members[0]!, service, service.startLsn)
  await service.postgres.query('CREATE TABLE t (a int, b text)')
  for (let round = 0; round < 6; round++) {
    await service.postgres.query(
      "INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 10000) g",
    )
  }
  await service.postgres.stop()
  await proposer.stop()
  const deadline = Date.now() + 90_000
  while (!(await service.timeline(0)).evicted) {
    if (Date.now() > deadline) throw new Error('the timeline does not leave the disk')
    await sleep(100)
  }
  const before = await service.timeline(0)
  const configuration = joint(service, [1, 2])
  const { done } = await pull(service, 1, { from: [1], configuration })
  expect(done).toMatchObject({ flushLsn: before.flushLsn, lastLogTerm: before.lastLogTerm })
  const copy = await service.timeline(1)
  const [start, end] = [parseLsn(copy.localStartLsn), parseLsn(copy.flushLsn)]
  expect(start).toBeGreaterThan(service.startLsn)
  const sent = follower.bytes(service.startLsn, end)
  const hash = (from: number) =>
    createHash('sha256')
      .update(sent.subarray(from - service.startLsn))
      .digest('hex')
  expect(await service.digest(1, start, end)).toBe(hash(start))
  // What it never had on its disk it reads from object storage.
  expect(await service.digest(1, service.startLsn, end)).toBe(hash(service.startLsn))
})
