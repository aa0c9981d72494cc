/**
 * The migration against a small model of safekeepers and leaders, with lost requests and answers,
 * safekeepers that go away and lose their disks, leaders of old configurations that go on, and a
 * driver that dies between any two steps. Checked all along: a term is won once (I3), a leader has
 * every committed entry, commits never differ, and the bound holds when members change (I25).
 */
import { describe, expect, it } from 'vitest'
import { ZenithError } from '#libs/errors.ts'
import { isQuorum, majority, quorumLsn } from '#libs/protocol/quorum.ts'
import {
  commonPoint,
  cutHistory,
  lastLogTerm,
  type TermEntry,
} from '#libs/protocol/term-history.ts'
import type { Member, MemberConfiguration } from '#libs/protocol/wal-push.ts'
import {
  abortChange,
  beginChange,
  comparePositions,
  finishChange,
  type MemberReport,
  type Membership,
  sameMembership,
} from './membership.ts'
import { CATCH_UP_MS, Migration, type MigrationEffect, type MigrationEvent } from './migration.ts'

const NODES = 6
const address = (id: number): Member => ({ id, host: `sk${id}`, pgPort: id, httpPort: id })
const addresses = new Map(Array.from({ length: NODES }, (_, i) => [i + 1, address(i + 1)]))

const settled = (members: number[], generation = 1): Membership => ({
  generation,
  members,
  newMembers: null,
  rebuild: [],
  pending: [],
  announced: true,
  deletions: [],
})

interface Keeper {
  configuration: MemberConfiguration
  term: number
  history: TermEntry[]
  log: string[]
}

interface Leader {
  configuration: MemberConfiguration
  term: number
  history: TermEntry[]
  log: string[]
  acked: Map<number, number>
  /** Members that have taken its history. */
  elected: Set<number>
  commit: number
}

function generator(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

/** Breaks one rule, to show that the model would notice. */
type Fault = 'no-term-bump' | 'no-position' | 'no-switch'

class World {
  readonly pick: (below: number) => number
  readonly fault: Fault | null
  membership = settled([1, 2, 3])
  readonly keepers = new Map<number, Keeper>()
  readonly tombstones = new Map<number, number>()
  readonly down = new Set<number>()
  readonly wiped = new Set<number>()
  leaders: Leader[] = []
  readonly winners = new Map<number, Leader>()
  committed: string[] = []
  driver: Migration
  pending: { driver: Migration; effect: MigrationEffect }[] = []
  nowMs = 0
  writes = 0
  finished = 0

  constructor(seed: number, fault: Fault | null = null) {
    this.pick = generator(seed)
    this.fault = fault
    for (const id of this.membership.members) {
      this.keepers.set(id, {
        configuration: configurationOf(this.membership),
        term: 0,
        history: [{ term: 0, startLsn: 0 }],
        log: [],
      })
    }
    this.driver = this.newDriver()
  }

  newDriver(): Migration {
    return new Migration({ membership: this.membership, addresses })
  }

  one<T>(list: readonly T[]): T | undefined {
    return list[this.pick(Math.max(1, list.length))]
  }

  /** One thing that may happen at any time. */
  chaos(): void {
    const dice = this.pick(100)
    if (dice < 35) this.perform()
    else if (dice < 50) this.tick()
    else if (dice < 65) this.stream()
    else if (dice < 72) this.write()
    else if (dice < 79) this.elect()
    else if (dice < 84) this.flip()
    else if (dice < 87) this.driver = this.newDriver()
    else if (dice < 91) this.start()
    else if (dice < 92) this.feed(this.driver, { kind: 'abort' })
    else if (dice < 93) this.wipe()
    else if (dice < 94) this.leaders.splice(this.pick(4), 1)
    else this.stream()
  }

  tick(): void {
    this.nowMs += 500
    this.feed(this.driver, { kind: 'tick', nowMs: this.nowMs })
  }

  feed(driver: Migration, event: MigrationEvent): void {
    for (const effect of driver.step(event)) this.pending.push({ driver, effect })
  }

  /** Performs one request of a driver, perhaps of a dead one; the answer may be lost. */
  perform(reliable = false): void {
    const [item] = this.pending.splice(reliable ? 0 : this.pick(this.pending.length || 1), 1)
    if (!item) return
    const { driver, effect } = item
    const lostRequest = !reliable && this.pick(8) === 0
    const answer = lostRequest ? failure(effect) : this.answer(effect)
    const lostAnswer = !reliable && this.pick(8) === 0
    if (driver === this.driver) this.feed(driver, lostAnswer ? failure(effect) : answer)
  }

  answer(effect: MigrationEffect): MigrationEvent {
    if (effect.kind === 'swap') return this.swap(effect)
    if (effect.kind === 'tell') return { kind: 'told' }
    if (effect.kind === 'elect') {
      this.elect(effect.configuration)
      for (let step = 0; step < 10; step++) this.stream()
      return { kind: 'elected' }
    }
    const { node } = effect
    if (this.down.has(node)) return failure(effect)
    if (effect.kind === 'delete') {
      const generation = effect.generation
      this.tombstones.set(node, Math.max(generation, this.tombstones.get(node) ?? 0))
      const keeper = this.keepers.get(node)
      if (keeper && keeper.configuration.generation <= generation) this.keepers.delete(node)
      return { kind: 'deleted', node }
    }
    if (effect.kind === 'pull') return this.pull(effect)
    const keeper = this.keepers.get(node)
    if (!keeper) return { kind: 'failed', node, absent: true, reason: 'no such timeline' }
    if (effect.kind === 'configure') {
      if (effect.configuration.generation < keeper.configuration.generation) return failure(effect)
      keeper.configuration = effect.configuration
    } else if (effect.kind === 'bump-term' && this.fault !== 'no-term-bump') {
      keeper.term = Math.max(keeper.term, effect.term)
    }
    return { kind: 'report', node, report: this.report(keeper) }
  }

  report(keeper: Keeper): MemberReport {
    return {
      generation:
        this.fault === 'no-switch' ? this.membership.generation : keeper.configuration.generation,
      term: this.fault === 'no-term-bump' ? 1e9 : keeper.term,
      lastLogTerm:
        this.fault === 'no-position' ? 1e9 : lastLogTerm(keeper.history, keeper.log.length),
      flushLsn: keeper.log.length,
    }
  }

  pull(effect: Extract<MigrationEffect, { kind: 'pull' }>): MigrationEvent {
    const { node, configuration, minimum } = effect
    const fail = (reason: string): MigrationEvent => ({
      kind: 'failed',
      node,
      absent: false,
      reason,
    })
    const mine = this.keepers.get(node)
    if (mine && mine.configuration.generation <= configuration.generation) {
      mine.configuration = configuration
    }
    if (mine) return { kind: 'report', node, report: this.report(mine) }
    if (configuration.generation <= (this.tombstones.get(node) ?? 0)) return fail('deleted')
    const donor = effect.donors.find(({ id }) => this.keepers.has(id) && !this.down.has(id))
    const theirs = donor && this.keepers.get(donor.id)
    if (!theirs) return fail('no donor')
    const report = this.report(theirs)
    if (minimum && comparePositions(report, minimum.position) < 0) return fail('donor is behind')
    this.keepers.set(node, {
      configuration,
      term: Math.max(theirs.term, minimum?.term ?? 0),
      history: cutHistory(theirs.history, theirs.log.length),
      log: [...theirs.log],
    })
    this.wiped.delete(node)
    return { kind: 'report', node, report: this.report(this.keepers.get(node) as Keeper) }
  }

  swap(effect: Extract<MigrationEffect, { kind: 'swap' }>): MigrationEvent {
    const { expected, next } = effect
    if (sameMembership(this.membership, expected)) {
      if (expected.newMembers !== null && next.members !== expected.members) {
        this.finished += 1
        if (this.fault === null) this.checkBound(expected)
      }
      this.membership = next
    }
    return { kind: 'record', membership: this.membership }
  }

  /**
   * I25, from what the keepers really hold: a majority of the new members has all that was committed
   * under earlier configurations, and a term not below that of any leader of those. One whose disk
   * was lost after it said so is not to be blamed.
   */
  checkBound(joint: Membership): void {
    const before = ({ configuration }: Leader) => configuration.generation < joint.generation
    const earlier = [...this.winners.values()].filter(before)
    const length = Math.max(0, ...earlier.map(({ commit }) => commit))
    const term = Math.max(0, ...earlier.map((leader) => leader.term))
    const ready = (joint.newMembers ?? []).filter((id) => {
      const keeper = this.keepers.get(id)
      if (!keeper) return this.wiped.has(id)
      const same = this.committed.slice(0, length).every((entry, at) => keeper.log[at] === entry)
      return same && keeper.term >= term && keeper.configuration.generation >= joint.generation
    })
    expect(ready.length).toBeGreaterThanOrEqual(majority(joint.newMembers?.length ?? 0))
  }

  start(): void {
    if (this.membership.newMembers !== null) return
    const target = [...addresses.keys()].filter(() => this.pick(2) === 0)
    const rebuild = this.membership.members.filter((id) => this.wiped.has(id))
    try {
      const members = rebuild.length > 0 ? this.membership.members : target
      this.membership = beginChange(this.membership, members, rebuild)
      this.feed(this.driver, { kind: 'record', membership: this.membership })
    } catch (error) {
      expect(error).toBeInstanceOf(ZenithError)
    }
  }

  flip(): void {
    const id = 1 + this.pick(NODES)
    if (!this.down.delete(id) && this.down.size < 2) this.down.add(id)
  }

  /** One disk at a time, of three members or more, while nothing else changes. */
  wipe(): void {
    const { members, newMembers, announced } = this.membership
    if (newMembers !== null || !announced || members.length < 3 || this.wiped.size > 0) return
    const id = this.one(members) as number
    if (!members.every((one) => this.keepers.has(one))) return
    this.keepers.delete(id)
    this.wiped.add(id)
    for (const leader of this.leaders) {
      leader.acked.delete(id)
      leader.elected.delete(id)
    }
  }

  /** A proposer with the members that the store or some safekeeper knows, old ones included. */
  elect(given?: MemberConfiguration): void {
    const known = [...this.keepers.values()].map(({ configuration }) => configuration)
    const start = given ?? this.one([configurationOf(this.membership), ...known])
    if (!start) return
    let configuration = start
    const reachable = () =>
      idsOf(configuration).filter((id) => this.keepers.has(id) && !this.down.has(id))
    for (const id of reachable()) {
      const keeper = this.keepers.get(id) as Keeper
      if (keeper.configuration.generation > configuration.generation) {
        configuration = keeper.configuration
      }
    }
    const voters = reachable().filter(() => given !== undefined || this.pick(4) > 0)
    const greeted = voters.filter((id) => {
      const keeper = this.keepers.get(id) as Keeper
      if (keeper.configuration.generation < configuration.generation) {
        keeper.configuration = configuration
      }
      return keeper.configuration.generation === configuration.generation
    })
    if (!isQuorum(configuration, (id) => greeted.includes(id))) return
    const views = greeted.map((id) => this.keepers.get(id) as Keeper)
    const term = Math.max(...views.map((keeper) => keeper.term)) + 1
    for (const keeper of views) keeper.term = term
    const best = views.reduce((a, b) =>
      comparePositions(positionOf(a), positionOf(b)) >= 0 ? a : b,
    )
    const leader: Leader = {
      configuration,
      term,
      history: [...cutHistory(best.history, best.log.length), { term, startLsn: best.log.length }],
      log: [...best.log],
      acked: new Map(),
      elected: new Set(),
      commit: 0,
    }
    if (this.winners.has(term)) throw new Error(`term ${term} was won twice`)
    this.winners.set(term, leader)
    this.checkPrefix(leader.log, 'a leader lacks a commit')
    this.leaders = [leader, ...this.leaders].slice(0, 3)
  }

  checkPrefix(log: readonly string[], what: string): void {
    const missing = this.committed.findIndex((entry, index) => log[index] !== entry)
    if (missing !== -1) throw new Error(`${what}: ${this.committed[missing]}`)
  }

  write(): void {
    this.one(this.leaders)?.log.push(`w${this.writes++}`)
  }

  /** One leader sends something to one member. */
  stream(): void {
    const leader = this.one(this.leaders)
    if (!leader) return
    const id = this.one(idsOf(leader.configuration)) as number
    const keeper = this.keepers.get(id)
    if (!keeper || this.down.has(id)) return
    if (keeper.configuration.generation !== leader.configuration.generation) return
    if (keeper.term > leader.term) return
    if (!leader.elected.has(id)) {
      const length = commonPoint(leader.history, keeper.history, keeper.log.length)
      keeper.log = keeper.log.slice(0, length)
      keeper.term = leader.term
      keeper.history = leader.history
      leader.elected.add(id)
    } else if (keeper.log.length < leader.log.length) {
      const next = leader.log.length - keeper.log.length
      keeper.log = leader.log.slice(0, keeper.log.length + 1 + this.pick(next))
    }
    leader.acked.set(id, keeper.log.length)
    const termStart = leader.history.at(-1)?.startLsn ?? 0
    const commit = quorumLsn(leader.configuration, (member) => {
      const acked = leader.acked.get(member)
      return acked !== undefined && acked >= termStart ? acked : 0
    })
    if (commit <= leader.commit) return
    leader.commit = commit
    const shared = Math.min(commit, this.committed.length)
    for (let index = 0; index < shared; index++) {
      if (leader.log[index] !== this.committed[index]) throw new Error('two logs were committed')
    }
    if (commit > this.committed.length) this.committed = leader.log.slice(0, commit)
  }

  /** Everything answers from now on: the change must end, and a new leader must get on. */
  heal(): void {
    this.down.clear()
    this.driver = this.newDriver()
    this.pending = this.pending.filter(({ effect }) => effect.kind === 'delete')
    if (this.membership.newMembers === null && this.wiped.size > 0) this.start()
    for (let round = 0; round < 400; round++) {
      if (this.driver.phase === 'done') break
      this.tick()
      while (this.pending.length > 0) this.perform(true)
    }
    expect(this.driver.phase).toBe('done')
    this.leaders = []
    this.elect(configurationOf(this.membership))
    expect(this.leaders).toHaveLength(1)
    this.write()
    for (let step = 0; step < 200; step++) this.stream()
    expect(this.committed.at(-1)).toBe(`w${this.writes - 1}`)
  }
}

function failure(effect: MigrationEffect): MigrationEvent {
  if (effect.kind === 'swap') return { kind: 'swap-failed' }
  if (effect.kind === 'tell') return { kind: 'not-told', reason: 'lost' }
  if (effect.kind === 'elect') return { kind: 'elected' }
  return { kind: 'failed', node: effect.node, absent: false, reason: 'lost' }
}

function configurationOf({ generation, members, newMembers }: Membership): MemberConfiguration {
  return {
    generation,
    members: members.map(address),
    newMembers: newMembers === null ? null : newMembers.map(address),
  }
}

function idsOf({ members, newMembers }: MemberConfiguration): number[] {
  return [...new Set([...members, ...(newMembers ?? [])].map(({ id }) => id))]
}

function positionOf(keeper: Keeper) {
  const flushLsn = keeper.log.length
  return { lastLogTerm: lastLogTerm(keeper.history, flushLsn), flushLsn }
}

function run(seed: number, fault: Fault | null = null): World {
  const world = new World(seed, fault)
  for (let step = 0; step < 600; step++) world.chaos()
  if (fault === null) world.heal()
  return world
}

describe('a migration', () => {
  const step = (migration: Migration, event: MigrationEvent) =>
    migration.step(event).map((effect) => {
      const node = 'node' in effect ? ` ${effect.node}` : ''
      return `${effect.kind}${node}`
    })
  const report = (
    node: number,
    generation: number,
    flushLsn: number,
    term = 3,
  ): MigrationEvent => ({
    kind: 'report',
    node,
    report: { generation, term, lastLogTerm: 3, flushLsn },
  })
  const tick = (nowMs: number): MigrationEvent => ({ kind: 'tick', nowMs })

  it('goes copy, switch, catch-up, swap, announce, clean-up', () => {
    const joint = beginChange(settled([1, 2, 3]), [1, 2, 4])
    const migration = new Migration({ membership: joint, addresses })
    expect(step(migration, tick(0))).toEqual(['query 1', 'query 2', 'query 3', 'query 4'])
    step(migration, report(1, 1, 90))
    step(migration, report(2, 1, 100, 5))
    step(migration, { kind: 'failed', node: 3, absent: false, reason: 'refused' })
    step(migration, { kind: 'failed', node: 4, absent: true, reason: 'not here' })
    const copy = migration.step(tick(1))
    expect(copy.find(({ kind }) => kind === 'pull')).toMatchObject({
      node: 4,
      donors: [{ id: 2 }, { id: 1 }],
      configuration: { generation: 2, newMembers: [{ id: 1 }, { id: 2 }, { id: 4 }] },
      minimum: null,
    })
    step(migration, report(1, 1, 90))
    step(migration, report(2, 1, 100, 5))
    expect(migration.phase).toBe('copy')
    step(migration, report(4, 2, 95, 3))
    expect(migration.phase).toBe('switch')
    expect(step(migration, tick(2))).toEqual(['configure 1', 'configure 2', 'configure 4'])
    step(migration, report(1, 2, 90, 4))
    expect(migration.syncPoint).toBeNull()
    step(migration, report(2, 2, 110, 5))
    expect(migration.syncPoint).toEqual({ term: 5, position: { lastLogTerm: 3, flushLsn: 110 } })
    step(migration, report(4, 2, 95, 3))
    expect(step(migration, tick(3))).toEqual(['bump-term 1', 'configure 2', 'bump-term 4'])
    expect(step(migration, report(1, 2, 90, 5))).toEqual([])
    // The position is there with an old term, then with the new one: only then it counts.
    expect(step(migration, report(4, 2, 120, 4))).toEqual([])
    expect(step(migration, tick(4))).toEqual(['configure 1', 'bump-term 4'])
    expect(step(migration, report(4, 2, 120, 5))).toEqual([])
    expect(step(migration, report(1, 2, 120, 5))).toEqual(['swap'])
    const final = finishChange(joint, [])
    expect(final).toMatchObject({
      generation: 3,
      members: [1, 2, 4],
      deletions: [{ node: 3, generation: 3 }],
    })
    step(migration, { kind: 'record', membership: final })
    expect(migration.phase).toBe('announce')
    step(migration, report(2, 2, 120, 5))
    expect(step(migration, tick(5))).toEqual(['configure 1', 'configure 2', 'configure 4'])
    step(migration, report(1, 3, 120, 5))
    expect(step(migration, report(4, 3, 120, 5))).toEqual(['tell'])
    expect(step(migration, { kind: 'told' })).toEqual(['swap'])
    step(migration, { kind: 'record', membership: { ...final, announced: true } })
    expect(migration.phase).toBe('clean-up')
    expect(step(migration, { kind: 'failed', node: 3, absent: false, reason: 'away' })).toEqual([])
    expect(step(migration, tick(6))).toEqual(['delete 3'])
    expect(step(migration, { kind: 'deleted', node: 3 })).toEqual(['swap'])
    step(migration, { kind: 'record', membership: settled([1, 2, 4], 3) })
    expect(migration.phase).toBe('done')
  })

  it('asks for an election when nobody brings the new members up', () => {
    const joint = beginChange(settled([1, 2, 3]), [1, 2])
    const migration = new Migration({ membership: joint, addresses })
    step(migration, tick(0))
    for (const id of [1, 2, 3]) step(migration, report(id, 1, 100))
    step(migration, tick(1))
    step(migration, report(1, 2, 50))
    step(migration, report(3, 2, 100))
    step(migration, report(2, 2, 60))
    expect(step(migration, tick(2))).not.toContain('elect')
    expect(step(migration, tick(1 + CATCH_UP_MS))).toContain('elect')
    expect(step(migration, tick(1 + 3 * CATCH_UP_MS))).not.toContain('elect')
    step(migration, { kind: 'elected' })
    expect(step(migration, tick(1 + 5 * CATCH_UP_MS))).toContain('elect')
  })

  it('goes back to the old members under a new generation, once', () => {
    const joint = beginChange(settled([1, 2, 3]), [1, 2, 4])
    const migration = new Migration({ membership: joint, addresses })
    const [effect] = migration.step({ kind: 'abort' })
    const aborted = abortChange(joint)
    expect(effect).toEqual({ kind: 'swap', expected: joint, next: aborted })
    expect(aborted).toMatchObject({
      generation: 3,
      members: [1, 2, 3],
      newMembers: null,
      deletions: [{ node: 4, generation: 3 }],
    })
    // The other way out was taken in the meantime: then that holds.
    const finished = finishChange(joint, [])
    expect(migration.step({ kind: 'record', membership: finished })).toEqual([])
    expect(migration.step({ kind: 'abort' })).toEqual([])
    expect(migration.phase).toBe('announce')
  })

  it('rebuilds a member that lost its disk only from what bounds its promises', () => {
    const joint = beginChange(settled([1, 2, 3]), [1, 2, 3], [3])
    const migration = new Migration({ membership: joint, addresses })
    step(migration, tick(0))
    step(migration, report(1, 1, 90))
    step(migration, report(2, 1, 100))
    step(migration, { kind: 'failed', node: 3, absent: true, reason: 'not here' })
    expect(step(migration, tick(1))).toEqual(['configure 1', 'configure 2', 'query 3'])
    step(migration, report(1, 2, 90))
    step(migration, { kind: 'failed', node: 3, absent: true, reason: 'not here' })
    expect(migration.syncPoint).toBeNull()
    step(migration, report(2, 2, 100))
    const pull = migration.step(tick(2)).find(({ kind }) => kind === 'pull')
    expect(pull).toMatchObject({
      node: 3,
      donors: [{ id: 2 }],
      minimum: { term: 3, position: { lastLogTerm: 3, flushLsn: 100 } },
    })
  })

  it('refuses changes that make no sense', () => {
    const settledThree = settled([1, 2, 3])
    const code = (make: () => unknown) => {
      try {
        make()
        return 'done'
      } catch (error) {
        return (error as ZenithError).code
      }
    }
    expect(code(() => beginChange(settledThree, [3, 2, 1]))).toBe('invalid_argument')
    expect(code(() => beginChange(settledThree, []))).toBe('invalid_argument')
    expect(code(() => beginChange(settledThree, [1, 2, 4], [4]))).toBe('invalid_argument')
    expect(code(() => beginChange(settled([1]), [1], [1]))).toBe('precondition_failed')
    const joint = beginChange(settledThree, [1, 2, 4])
    expect(code(() => beginChange(joint, [1, 2, 5]))).toBe('conflict')
    const aborted = abortChange(joint)
    expect(code(() => beginChange(aborted, [1, 2, 4]))).toBe('conflict')
    expect(beginChange({ ...aborted, deletions: [] }, [1, 2, 4]).generation).toBe(4)
  })

  it('loses no commit and elects nobody twice, whatever happens', () => {
    let finished = 0
    let committed = 0
    for (let seed = 1; seed <= 800; seed++) {
      try {
        const world = run(seed)
        finished += world.finished
        committed += world.committed.length
      } catch (error) {
        throw new Error(`seed ${seed}: ${String(error)}`, { cause: error })
      }
    }
    // Not vacuous: members change and commits happen in most runs.
    expect(finished).toBeGreaterThan(800)
    expect(committed).toBeGreaterThan(3_000)
  })

  it.each<Fault>(['no-term-bump', 'no-position', 'no-switch'])(
    'would be caught by this model with the fault %s',
    (fault) => {
      const caught = Array.from({ length: 4_000 }, (_, seed) => seed + 1).some((seed) => {
        try {
          run(seed, fault)
          return false
        } catch {
          return true
        }
      })
      expect(caught).toBe(true)
    },
  )
})
