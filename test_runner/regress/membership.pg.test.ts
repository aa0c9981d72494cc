/**
 * Safekeepers of a branch are replaced under load, with the control plane and others killed on the
 * way. Its Postgres runs on, no acknowledged transaction is lost, and whoever is out holds nothing.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { MembershipInfo } from '#libs/api/members.ts'
import { callControl } from '#libs/api/control-client.ts'
import { callSafekeeper, type SafekeeperTimeline } from '#libs/api/safekeeper.ts'
import { ZenithError } from '#libs/errors.ts'
import { parseLsn } from '#libs/lsn.ts'
import { Installation } from '../fixtures/installation.ts'
import { Ledger } from '../fixtures/ledger.ts'
import { ZenithCommand } from '../fixtures/zenith-command.ts'

const PATIENCE_MS = 90_000
/** For steps that passed before one could look. */
const MORE_TRIES = 10
/** In which a change goes; `waiting` is before a control plane that was started again takes it up. */
const STEPS = ['waiting', 'copy', 'switch', 'catch-up', 'announce', 'clean-up', 'done']

class Branch {
  readonly zenith: Installation
  readonly timelineId: string

  constructor(zenith: Installation, timelineId: string) {
    this.zenith = zenith
    this.timelineId = timelineId
  }

  get #params() {
    return { tenantId: this.zenith.tenantId, timelineId: this.timelineId }
  }

  members(): Promise<MembershipInfo> {
    return callControl(this.zenith.controlUrl, 'getMembers', { params: this.#params })
  }

  change(safekeepers: number[], rebuild: number[] = []): Promise<MembershipInfo> {
    const body = { safekeepers, rebuild }
    return callControl(this.zenith.controlUrl, 'changeMembers', { params: this.#params, body })
  }

  abort(): Promise<MembershipInfo> {
    return callControl(this.zenith.controlUrl, 'abortMembers', { params: this.#params })
  }

  /** Waits until nothing is left to do. */
  async settled(): Promise<MembershipInfo> {
    const deadline = Date.now() + PATIENCE_MS
    while (true) {
      const info = await this.members()
      if (info.phase === 'done') return info
      if (Date.now() > deadline) throw new Error(`not settled: ${JSON.stringify(info)}`)
      await sleep(50)
    }
  }

  /** Looks until the change is at a step; false when that had passed already. */
  async reaches(phase: string): Promise<boolean> {
    while (true) {
      const info = await this.members()
      if (info.phase === phase) return true
      if (STEPS.indexOf(info.phase) > STEPS.indexOf(phase)) return false
      await sleep(3)
    }
  }

  /** Of one safekeeper; null when it has no such timeline. */
  async on(id: number): Promise<SafekeeperTimeline | null> {
    const answer = callSafekeeper(this.#url(id), 'getTimeline', { params: this.#params })
    return answer.catch((error: unknown) => {
      if (error instanceof ZenithError && error.code === 'not_found') return null
      throw error
    })
  }

  digest(id: number, from: string, to: string): Promise<{ sha256: string }> {
    return callSafekeeper(this.#url(id), 'digest', { params: this.#params, query: { from, to } })
  }

  /** All members have the same bytes from the oldest that each has up to a common commit position. */
  async expectEqualLogs(): Promise<void> {
    const { safekeepers } = await this.members()
    const deadline = Date.now() + PATIENCE_MS
    let states: SafekeeperTimeline[]
    do {
      await sleep(100)
      states = (await Promise.all(safekeepers.map((id) => this.on(id)))).flatMap((one) => one ?? [])
    } while (new Set(states.map((one) => one.commitLsn)).size > 1 && Date.now() < deadline)
    expect(states).toHaveLength(safekeepers.length)
    const byLsn = (a: string, b: string) => parseLsn(a) - parseLsn(b)
    const from = states
      .map((one) => one.localStartLsn)
      .sort(byLsn)
      .at(-1) as string
    const to = states.map((one) => one.commitLsn).sort(byLsn)[0] as string
    expect(parseLsn(to)).toBeGreaterThan(parseLsn(from))
    const digests = await Promise.all(safekeepers.map((id) => this.digest(id, from, to)))
    expect(new Set(digests.map(({ sha256 }) => sha256)).size).toBe(1)
  }

  #url(id: number): string {
    const node = this.zenith.safekeeperNodes.find((one) => one.id === id)
    return `http://${node?.host}:${node?.httpPort}`
  }
}

test('each safekeeper is replaced under load, with the control plane killed at every step', async () => {
  await using zenith = await Installation.create({ safekeepers: 4 })
  const compute = await zenith.startCompute('main')
  const branch = new Branch(zenith, compute.spec.timelineId)
  const ledger = new Ledger(() => compute.connect(), 3)
  await ledger.createTables()
  const startedAt = await compute.value('SELECT pg_postmaster_start_time()::text')
  const spare = (members: number[]) => [1, 2, 3, 4].find((id) => !members.includes(id)) as number
  ledger.start()
  await ledger.progress(50, PATIENCE_MS)
  const replica = await zenith.startCompute('main', { name: 'reports', mode: 'replica' })

  // Step by step another member goes and the spare one comes, so that in the end every copy was
  // deleted and made anew.
  const killedAt = new Set<string>()
  const killAt = async (step: string, round: number) => {
    const before = await branch.settled()
    const comes = spare(before.safekeepers)
    const goes = before.safekeepers[round % 3] as number
    await branch.change([...before.safekeepers.filter((id) => id !== goes), comes])
    if (await branch.reaches(step)) killedAt.add(step)
    await zenith.control.stop('SIGKILL')
    await zenith.control.start()
    const after = await branch.settled()
    expect(after.safekeepers).toContain(comes)
    expect(after.safekeepers).not.toContain(goes)
    expect(after.generation).toBe(before.generation + 2)
    expect(await branch.on(goes)).toBeNull()
    await ledger.progress(20, PATIENCE_MS)
  }
  const steps = STEPS.slice(1, -1)
  for (const [round, step] of steps.entries()) await killAt(step, round)
  // A step may pass faster than one can look; most are hit, if need be at another time.
  for (let tries = 0; killedAt.size < 3 && tries < MORE_TRIES; tries += 1) {
    const missed = steps.filter((step) => !killedAt.has(step))
    await killAt(missed[tries % missed.length] as string, tries)
  }
  expect(killedAt.size).toBeGreaterThanOrEqual(3)

  // Undone at some step, or too late for that: then it has come into force.
  const undoneAt: string[] = []
  const undoAt = async (step: string) => {
    const before = await branch.settled()
    const comes = spare(before.safekeepers)
    const wanted = [...before.safekeepers.slice(1), comes].sort((a, b) => a - b)
    await branch.change(wanted)
    await branch.reaches(step)
    const undone = await branch.abort().then(
      () => true,
      () => false,
    )
    if (undone) undoneAt.push(step)
    // The one who undoes it dies before anybody was told.
    if (step === 'switch') {
      await zenith.control.stop('SIGKILL')
      await zenith.control.start()
    }
    const after = await branch.settled()
    expect(after.safekeepers).toEqual(undone ? before.safekeepers : wanted)
    expect(after.generation).toBe(before.generation + 2)
    expect(await branch.on(spare(after.safekeepers))).toBeNull()
    await ledger.progress(20, PATIENCE_MS)
  }
  for (const step of ['copy', 'switch', 'catch-up', 'announce']) await undoAt(step)
  for (let tries = 0; !undoneAt.includes('copy') && tries < MORE_TRIES; tries += 1) {
    await undoAt('copy')
  }
  expect(undoneAt).toContain('copy')

  await ledger.stop()
  expect(await ledger.violations()).toEqual([])
  expect(await compute.value('SELECT pg_postmaster_start_time()::text')).toBe(startedAt)
  await branch.expectEqualLogs()
  // The replica knew the first members only, none of which has kept its copy; it follows the others.
  const count = await compute.value('SELECT count(*)::int FROM ledger')
  const deadline = Date.now() + PATIENCE_MS
  while ((await replica.value('SELECT count(*)::int FROM ledger')) !== count) {
    if (Date.now() > deadline) throw new Error('the replica has lost its safekeepers')
    await sleep(100)
  }

  // Everything is also there for a compute that starts from nothing.
  await compute.kill()
  const again = await zenith.startCompute('main')
  const later = new Ledger(() => again.connect(), 1)
  expect(again.spec.port).toBe(compute.spec.port)
  expect(await ledger.violations()).toEqual([])
  later.start()
  await later.progress(5, PATIENCE_MS)
  await later.stop()
})

test('a safekeeper that lost its disk has no vote until it was given a whole copy', async () => {
  await using zenith = await Installation.create({ safekeepers: 3 })
  const compute = await zenith.startCompute('main')
  const branch = new Branch(zenith, compute.spec.timelineId)
  const ledger = new Ledger(() => compute.connect(), 2)
  await ledger.createTables()
  ledger.start()
  await ledger.progress(50, PATIENCE_MS)

  const third = zenith.safekeepers[2]
  await third?.stop('SIGKILL')
  rmSync(join(zenith.dir, 'safekeepers', 'sk3', 'tenants'), { recursive: true })
  rmSync(join(zenith.dir, 'safekeepers', 'sk3', 'incarnation'))
  await third?.start()
  await ledger.progress(50, PATIENCE_MS)
  expect(await branch.on(3)).toBeNull()
  // With the empty one as the only other, nothing is committed: it counts for nothing.
  await zenith.safekeepers[1]?.stop('SIGKILL')
  await ledger.stalls()
  await zenith.safekeepers[1]?.start()
  await ledger.progress(20, PATIENCE_MS)

  const before = await branch.members()
  await branch.change([1, 2, 3], [3])
  const after = await branch.settled()
  expect(after).toMatchObject({ safekeepers: [1, 2, 3], lacking: [] })
  expect(after.generation).toBe(before.generation + 2)
  expect(await branch.on(3)).toMatchObject({ generation: after.generation })
  // Now it does count: another one may go.
  await zenith.safekeepers[0]?.stop('SIGKILL')
  await ledger.progress(50, PATIENCE_MS)
  await zenith.safekeepers[0]?.start()
  await ledger.progress(20, PATIENCE_MS)
  await ledger.stop()
  expect(await ledger.violations()).toEqual([])
  await branch.expectEqualLogs()
})

test('from one safekeeper to three, and on to others, by commands', async () => {
  await using zenith = new ZenithCommand()
  await zenith.ok('init')
  await zenith.ok('start')
  await zenith.ok('pg start main')
  await zenith.sql('main', 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS i')
  const started = await zenith.sql('main', 'SELECT pg_postmaster_start_time()::text AS at')

  const lonely = await zenith.run('safekeeper remove sk1')
  expect(lonely.code).toBe(4)
  expect(lonely.stderr).toContain('is the only one that keeps branch "main"')
  expect((await zenith.run('safekeeper move main --from sk1 --to sk7')).code).toBe(3)
  expect(await zenith.ok('safekeeper list')).toMatch(/^main +sk1 +-$/m)

  const spread = await zenith.ok('safekeeper spread 3')
  expect(spread).toMatch(/^Branch main: sk1 -> sk1, sk2, sk3$/m)
  expect(spread).toMatch(/1 of them may be lost without losing a commit/)
  expect(await zenith.ok('safekeeper list')).toMatch(/^main +sk1, sk2, sk3 +-$/m)
  process.kill(zenith.pidOf('safekeepers/sk1/safekeeper.pid'), 'SIGKILL')
  await zenith.sql('main', 'INSERT INTO t VALUES (1001)')
  await zenith.ok('start')

  const fewer = await zenith.run('safekeeper remove sk2')
  expect(fewer.code).toBe(4)
  expect(fewer.stderr).toContain('would be kept by 2 instead of 3')
  const added = await zenith.json<{ name: string }>('safekeeper add')
  expect(added.name).toBe('sk4')
  const moved = await zenith.ok('safekeeper move main --from sk1 --to sk4')
  expect(moved).toMatch(/^ +done: kept by sk2, sk3, sk4$/m)
  expect((await zenith.run('safekeeper abort main')).code).toBe(4)
  expect(await zenith.ok('safekeeper remove sk2')).toContain('Safekeeper sk2 is removed.')
  interface Listed {
    safekeepers: { name: string; answers: boolean; timelines: number }[]
    branches: { branch: string; safekeepers: number[]; phase: string }[]
  }
  const listed = await zenith.json<Listed>('safekeeper list')
  expect(listed.safekeepers.map(({ name, timelines }) => [name, timelines])).toEqual([
    ['sk1', 1],
    ['sk3', 1],
    ['sk4', 1],
  ])
  expect(listed.branches).toMatchObject([{ branch: 'main', safekeepers: [1, 3, 4] }])
  expect(await zenith.sql('main', 'SELECT pg_postmaster_start_time()::text AS at')).toEqual(started)
  await zenith.sql('main', 'INSERT INTO t VALUES (1002)')
  await zenith.ok('stop')
  await zenith.ok('start')
  await zenith.ok('pg start main')
  expect(await zenith.sql('main', 'SELECT count(*)::int AS n FROM t')).toEqual([{ n: 1002 }])
})
