/**
 * Everything at once, under load: computes, safekeepers, pageserver and control plane are killed and
 * started again, branches are made, computes are usurped, in a random order. After each few steps
 * every acknowledged transaction must be there exactly once, on main and on each new branch.
 *
 * The order follows from a seed, which is printed: `ZENITH_CHAOS_SEED=7 ZENITH_CHAOS_STEPS=100`. With
 * `ZENITH_CHAOS_PAGESERVERS=3` the tenant is also split, by its size and by request, and its shards
 * move from one to another.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, it, onTestFailed } from 'vitest'
import { callControl } from '#libs/api/control-client.ts'
import { ZenithError } from '#libs/errors.ts'
import type { Compute } from '../fixtures/compute.ts'
import { freePort } from '../fixtures/free-port.ts'
import { Installation } from '../fixtures/installation.ts'
import { Ledger } from '../fixtures/ledger.ts'

const STEPS = Number(process.env['ZENITH_CHAOS_STEPS'] ?? 24)
const SEED = Number(process.env['ZENITH_CHAOS_SEED'] ?? Date.now() % 1_000_000)
const PAGESERVERS = Number(process.env['ZENITH_CHAOS_PAGESERVERS'] ?? 1)
/** An empty cluster has more. */
const SPLIT_SIZE = 8 * 1024 * 1024
const MOST_SHARDS = 16
const CLIENTS = 4
/** Transactions between two steps, so that each step meets a database at work. */
const PROGRESS = 30
const PROGRESS_TIMEOUT_MS = 120_000
const CHECK_EVERY = 6

class Chaos {
  readonly #zenith: Installation
  readonly #random: (below: number) => number
  readonly ledger: Ledger
  #main!: Compute
  #steps = 0

  constructor(zenith: Installation, random: (below: number) => number) {
    this.#zenith = zenith
    this.#random = random
    this.ledger = new Ledger(() => this.#main.connect(), CLIENTS)
  }

  get main(): Compute {
    return this.#main
  }

  async startMain(): Promise<void> {
    // So small that pages come and go all the time.
    this.#main = await this.#zenith.startCompute('main', { settings: { shared_buffers: '16MB' } })
  }

  async step(): Promise<void> {
    const zenith = this.#zenith
    const steps = [
      () => this.#restartMain('SIGKILL'),
      () => this.#restartMain('SIGTERM'),
      () => this.#restart(zenith.safekeepers[this.#random(zenith.safekeepers.length)]),
      () => this.#restart(zenith.pageservers[this.#random(zenith.pageservers.length)]),
      () => this.#restart(zenith.control),
      () => this.#branch(),
      () => this.#powerCut(),
      // One that nobody knows of is not told where shards are.
      ...(PAGESERVERS > 1 ? [() => this.#split(), () => this.#move()] : [() => this.#usurp()]),
    ]
    const chosen = steps[this.#random(steps.length)]
    this.#steps++
    await chosen?.()
  }

  async #restartMain(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const ended = await this.#main.process.stop(signal)
    expect(ended).toBe(signal === 'SIGTERM' ? 0 : 'SIGKILL')
    await this.startMain()
  }

  async #restart(service: Installation['control'] | undefined): Promise<void> {
    await service?.stop('SIGKILL')
    await sleep(this.#random(500))
    await service?.start()
  }

  async #branch(): Promise<void> {
    const acknowledged = this.ledger.acknowledgedCount
    const name = `branch-${this.#steps}`
    await this.#zenith.createBranch(name)
    const branch = await this.#zenith.startCompute(name)
    const rows = Number(await branch.value('SELECT count(*) FROM ledger'))
    expect(rows).toBeGreaterThanOrEqual(acknowledged)
    const sums = 'SELECT sum(balance) = 1000 * count(*) FROM account'
    expect(await branch.value(sums)).toBe(true)
    // Must never be seen on main.
    await branch.query('INSERT INTO ledger VALUES (-1, -1)')
    await branch.process.stop(this.#random(2) === 0 ? 'SIGKILL' : 'SIGTERM')
  }

  /** A second compute that nobody refused: it wins the election, the first one must go. */
  async #usurp(): Promise<void> {
    const first = this.#main
    const { spec } = first
    const usurper = this.#zenith.launchSpec({
      ...spec,
      endpoint: `usurper-${this.#steps}`,
      port: await freePort(),
      attempt: 0,
    })
    await usurper.ready()
    expect(await first.exited).toBe(3)
    await usurper.kill()
    await this.startMain()
  }

  /** Twice as many shards, unless they are just being split or moved. */
  async #split(): Promise<void> {
    const { controlUrl, tenantId } = this.#zenith
    const params = { tenantId }
    const { shardCount } = await callControl(controlUrl, 'getSplit', { params })
    const shards = Math.min(Math.max(shardCount, 1) * 2, MOST_SHARDS)
    await callControl(controlUrl, 'splitTenant', { params, body: { shards } }).catch(passConflict)
    await sleep(this.#random(500))
  }

  async #move(): Promise<void> {
    const { controlUrl, tenantId } = this.#zenith
    const params = { tenantId }
    const { shardCount } = await callControl(controlUrl, 'getSplit', { params })
    const shard = this.#random(Math.max(shardCount, 1))
    const body = { to: 1 + this.#random(PAGESERVERS), shard }
    await callControl(controlUrl, 'moveTenant', { params, body }).catch(passConflict)
    await sleep(this.#random(500))
  }

  async #powerCut(): Promise<void> {
    await this.#zenith.killAll()
    await this.#zenith.start()
    await this.startMain()
  }
}

it(`loses nothing in ${STEPS} random steps (seed ${SEED})`, async () => {
  await using zenith = await Installation.create({
    safekeepers: 3,
    pageservers: PAGESERVERS,
    control: { split_size_bytes: SPLIT_SIZE, split_check_seconds: 1 },
  })
  onTestFailed(() => console.error(`seed ${SEED}\n${zenith.logs()}`))
  const chaos = new Chaos(zenith, generator(SEED))
  await chaos.startMain()
  await chaos.ledger.createTables()
  chaos.ledger.start()
  for (let step = 1; step <= STEPS; step++) {
    await chaos.ledger.progress(PROGRESS, PROGRESS_TIMEOUT_MS)
    await chaos.step()
    if (step % CHECK_EVERY === 0) expect(await chaos.ledger.violations()).toEqual([])
  }
  await chaos.ledger.stop()
  expect(await chaos.ledger.violations()).toEqual([])
  await chaos.main.tool('pg_amcheck', ['--heapallindexed', '--install-missing', '-d', 'postgres'])
})

/** Something else is under way. */
function passConflict(error: unknown): void {
  if (!(error instanceof ZenithError) || error.code !== 'conflict') throw error
}

/** Numbers from 0 to below the bound, always the same for a seed (a linear congruence). */
function generator(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff
    return (state >>> 8) % below
  }
}
