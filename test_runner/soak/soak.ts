/**
 * Years of a tenant's life in minutes: pgbench on five branches, branches of branches made and
 * deleted, with small layers so that flushes, compactions, images, garbage collection and eviction
 * all run all the time, while the page server is killed, restarted and loses its disk.
 *
 * Checked throughout: sums on every branch, now and in the past; no pgbench ever fails; local layer
 * files stay within their bound, for which some are evicted. At the end, with history cut off: what is stored stands in proportion to the data.
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { callControl } from '#libs/api/control-client.ts'
import { callPageserver } from '#libs/api/pageserver.ts'
import { errorMessage } from '#libs/errors.ts'
import { requestText } from '#libs/http/client.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import { Installation } from '../fixtures/installation.ts'
import { initialise } from '../performance/pgbench.ts'
import { Bank, checkSums } from './bank.ts'
import { bytesBelow } from './disk-use.ts'

const BRANCHES = 5
const SCALE = 2
const ROWS = SCALE * 100_000
const MIB = 1024 * 1024
const STORAGE = {
  roll_size_bytes: 8 * MIB,
  roll_distance_bytes: 16 * MIB,
  l0_compact_count: 4,
  layer_bytes: 8 * MIB,
  image_delta_bytes: 4 * MIB,
  idle_bytes: MIB,
  bottom_gain_bytes: MIB,
}
/**
 * Local layer files may take so much: less than what is read all the time, so that files go and come
 * back throughout. The page server looks every 10 seconds; until then there may be more, by what
 * was written and fetched meanwhile.
 */
const DISK = { max_bytes: 8 * MIB, tenant_floor_bytes: 2 * MIB }
const DISK_SLACK_BYTES = 64 * MIB
const COUNTED = ['evictions', 'downloads'] as const
const HISTORY_MS = 60_000
const CALL_TIMEOUT_MS = 300_000

type Action = 'kill' | 'restart' | 'wipe' | 'checkpoint' | 'compact' | 'gc' | 'branch' | 'past'
const ACTIONS: readonly Action[] = [
  ...(['kill', 'restart', 'wipe', 'checkpoint', 'compact', 'gc'] as const),
  ...(['branch', 'branch', 'past', 'past'] as const),
]

export interface SoakOptions {
  minutes: number
  seed: number
  say: (text: string) => void
}

export interface SoakResult {
  transactions: number
  actions: Record<string, number>
  mostLocalBytes: number
  /** Layer files that were evicted, and fetched again. */
  evictions: number
  downloads: number
  logicalBytes: number
  storedBytes: number
}

export class Soak {
  readonly #options: SoakOptions
  readonly #zenith: Installation
  readonly #banks: Bank[] = []
  readonly #actions: Record<string, number> = {}
  #random: number
  /** From here on the tables are full. */
  #filledLsn = 0
  #branchCount = 0
  #transactions = 0
  #mostLocalBytes = 0
  readonly #counts = { evictions: 0, downloads: 0 }
  readonly #lastCounts = { evictions: 0, downloads: 0 }

  private constructor(zenith: Installation, options: SoakOptions) {
    this.#zenith = zenith
    this.#options = options
    this.#random = options.seed >>> 0
  }

  /** Throws at the first thing that is wrong, with the ends of all logs. */
  static async run(options: SoakOptions): Promise<SoakResult> {
    await using zenith = await Installation.create({
      pageserver: {
        storage: STORAGE,
        disk: DISK,
        gc_period_seconds: 10,
        lease_seconds: 30,
      },
    })
    const soak = new Soak(zenith, options)
    try {
      return await soak.#run()
    } catch (error) {
      throw new Error(`seed ${options.seed}: ${String(error)}\n${zenith.logs()}`, { cause: error })
    } finally {
      for (const bank of soak.#banks) await bank.stop()
    }
  }

  async #run(): Promise<SoakResult> {
    await this.#begin()
    const end = Date.now() + this.#options.minutes * 60_000
    while (Date.now() < end) {
      await sleep(2000 + this.#pick(4000))
      const action = ACTIONS[this.#pick(ACTIONS.length)] as Action
      this.#options.say(`${action} (${this.#mib(this.#mostLocalBytes)} MiB of layers at most)`)
      this.#actions[action] = (this.#actions[action] ?? 0) + 1
      await this.#act(action)
      await this.#checkAll()
    }
    return await this.#finish()
  }

  async #begin(): Promise<void> {
    const { tenantId, controlUrl } = this.#zenith
    await callControl(controlUrl, 'setHistory', {
      params: { tenantId },
      body: { pitrIntervalMs: HISTORY_MS },
    })
    const main = await this.#zenith.startCompute('main')
    await initialise(main.address(), SCALE)
    this.#filledLsn = parseLsn(String(await main.value('SELECT pg_current_wal_flush_lsn()')))
    this.#open(new Bank(main))
    while (this.#banks.length < BRANCHES) await this.#branch()
  }

  #open(bank: Bank): void {
    bank.start()
    this.#banks.push(bank)
  }

  async #act(action: Action): Promise<void> {
    const { pageserver } = this.#zenith
    switch (action) {
      case 'kill':
        await pageserver.stop('SIGKILL')
        return await this.#zenith.start()
      case 'restart':
        await pageserver.stop('SIGTERM')
        return await this.#zenith.start()
      case 'wipe':
        return await this.#wipe()
      case 'checkpoint':
      case 'compact': {
        const { timelineId } = this.#someBank().compute.spec
        await this.#call(action, timelineId)
        return
      }
      case 'gc':
        for (const { compute } of this.#banks) await this.#collect(compute.spec.timelineId, null)
        return
      case 'branch':
        return await this.#replaceBranch()
      case 'past':
        return await this.#lookBack()
    }
  }

  async #call(name: 'checkpoint' | 'compact', timelineId: string): Promise<void> {
    const params = { tenantId: this.#zenith.tenantId, timelineId }
    await callPageserver(this.#zenith.pageserverUrl, name, { params, timeoutMs: CALL_TIMEOUT_MS })
  }

  async #collect(timelineId: string, pitrIntervalMs: number | null): Promise<void> {
    const options = {
      params: { tenantId: this.#zenith.tenantId, timelineId },
      body: pitrIntervalMs === null ? {} : { pitrIntervalMs },
      timeoutMs: CALL_TIMEOUT_MS,
    }
    for (;;) {
      try {
        await callPageserver(this.#zenith.pageserverUrl, 'collectGarbage', options)
        return
      } catch (error) {
        // Nothing is removed before leases had time to be renewed: after a start of the page server, and
        // after a silence of the control plane.
        if (!/rests for|a moment ago/.test(errorMessage(error))) throw error
        if (pitrIntervalMs === null) return
        await sleep(1000)
      }
    }
  }

  /** The page server's disk is lost: everything comes back from object storage. */
  async #wipe(): Promise<void> {
    await this.#zenith.losePageserverDisk()
    await this.#zenith.start()
  }

  /** A branch of any of them, at its end; its sums must be those of some moment. */
  async #branch(): Promise<void> {
    const parent = this.#someBank().compute.spec.branch
    const name = `b${++this.#branchCount}`
    await this.#zenith.createBranch(name, { from: parent })
    const compute = await this.#zenith.startCompute(name)
    await checkSums(compute, ROWS)
    this.#open(new Bank(compute))
  }

  /** The branch without children that is oldest goes, a new one comes. */
  async #replaceBranch(): Promise<void> {
    const { tenantId, controlUrl } = this.#zenith
    const branches = await callControl(controlUrl, 'listBranches', { params: { tenantId } })
    const parents = new Set(branches.map(({ parent }) => parent))
    const index = this.#banks.findIndex(({ compute }) => {
      const { branch } = compute.spec
      return branch !== 'main' && !parents.has(branch)
    })
    const [bank] = index < 0 ? [] : this.#banks.splice(index, 1)
    if (bank !== undefined) {
      await bank.stop()
      const { transactions } = await checkSums(bank.compute, ROWS)
      this.#transactions += Number(transactions)
      await bank.compute.stop()
      const params = { tenantId, name: bank.compute.spec.branch }
      await callControl(controlUrl, 'deleteEndpoint', { params })
      await callControl(controlUrl, 'deleteBranch', { params })
    }
    if (this.#banks.length < BRANCHES) await this.#branch()
  }

  /** A static compute within the history that is kept. */
  async #lookBack(): Promise<void> {
    const { compute } = this.#someBank()
    const { tenantId } = this.#zenith
    const { timelineId, branch } = compute.spec
    const retained = await callPageserver(this.#zenith.pageserverUrl, 'getRetained', {
      params: { tenantId, timelineId },
    })
    const kept = parseLsn(retained.cutoffLsn ?? retained.startLsn)
    const oldest = Math.max(kept, this.#filledLsn)
    const newest = parseLsn(retained.lastRecordLsn)
    // The window moves on while the compute is made, so its very beginning may be gone by then.
    const lsn = Math.floor((oldest + ((newest - oldest) * (30 + this.#pick(70))) / 100) / 8) * 8
    const name = `past${this.#actions['past']}`
    const past = await this.#zenith.startCompute(branch, {
      name,
      mode: 'static',
      lsn: formatLsn(lsn),
    })
    await checkSums(past, ROWS)
    await past.stop()
    await callControl(this.#zenith.controlUrl, 'deleteEndpoint', { params: { tenantId, name } })
  }

  async #checkAll(): Promise<void> {
    for (const bank of this.#banks) {
      if (bank.failure !== null) throw new Error(`${bank.compute.spec.endpoint}: ${bank.failure}`)
    }
    await checkSums(this.#someBank().compute, ROWS)
    const local = join(this.#zenith.dir, 'pageserver', 'tenants')
    const bytes = bytesBelow(local, (name) => !name.includes('~'))
    this.#mostLocalBytes = Math.max(this.#mostLocalBytes, bytes)
    if (bytes > DISK.max_bytes + DISK_SLACK_BYTES) {
      throw new Error(`local layers take ${this.#mib(bytes)} MiB of ${this.#mib(DISK.max_bytes)}`)
    }
    await this.#readCounters()
  }

  /** Counts of the page server begin anew with each start, so what they grow by is summed. */
  async #readCounters(): Promise<void> {
    const url = `${this.#zenith.pageserverUrl}/metrics`
    const { text } = await requestText('GET', url)
    for (const name of COUNTED) {
      const found = new RegExp(`^zenith_pageserver_${name}_total\\{.*\\} (\\d+)$`, 'm').exec(text)
      if (found === null) throw new Error(`the page server does not count ${name}`)
      const now = Number(found[1])
      const before = this.#lastCounts[name]
      this.#counts[name] += now >= before ? now - before : now
      this.#lastCounts[name] = now
    }
  }

  /** The load ends, history is cut off, and what is left is compared with the data. */
  async #finish(): Promise<SoakResult> {
    let logicalBytes = 0
    for (const bank of this.#banks) {
      await bank.stop()
      const { transactions } = await checkSums(bank.compute, ROWS)
      this.#transactions += Number(transactions)
      await bank.compute.query('VACUUM')
    }
    const params = { tenantId: this.#zenith.tenantId }
    await callControl(this.#zenith.controlUrl, 'setHistory', {
      params,
      body: { pitrIntervalMs: 0 },
    })
    for (let round = 0; round < 3; round++) {
      for (const { compute } of this.#banks) {
        await this.#call('checkpoint', compute.spec.timelineId)
        await this.#collect(compute.spec.timelineId, 0)
        await this.#call('compact', compute.spec.timelineId)
      }
    }
    for (const { compute } of this.#banks) {
      await checkSums(compute, ROWS)
      const { timelineId } = compute.spec
      const sizes = await callPageserver(this.#zenith.pageserverUrl, 'getTimelineSizes', {
        params: { ...params, timelineId },
      })
      logicalBytes += sizes.logicalBytes ?? 0
    }
    if (this.#counts.evictions === 0)
      throw new Error('no layer file was ever evicted; a few minutes of load do that')
    await sleep(5000)
    const objects = join(this.#zenith.dir, 'object-store', 'tenants')
    return {
      transactions: this.#transactions,
      actions: this.#actions,
      mostLocalBytes: this.#mostLocalBytes,
      ...this.#counts,
      logicalBytes,
      storedBytes: bytesBelow(objects),
    }
  }
  #someBank(): Bank {
    return this.#banks[this.#pick(this.#banks.length)] as Bank
  }

  /** A number below `below`, the same for the same seed. */
  #pick(below: number): number {
    this.#random = (Math.imul(this.#random, 1664525) + 1013904223) >>> 0
    return Math.floor((this.#random / 2 ** 32) * below)
  }

  #mib(bytes: number): string {
    return (bytes / MIB).toFixed(0)
  }
}
