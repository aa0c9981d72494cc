/**
 * The model's states and what can happen in them. Nodes are the production cores (through
 * transition tables); disks, connections and budgets are small and explicit, so that a state is a
 * row of integers.
 *
 * What is left out, to stay finite: records are whole (the simulation cuts them anywhere), silence
 * and heartbeats, readers. What is in: every order of messages, disk syncs that end at any later
 * time, late messages of broken connections, crashes before, after and between the effects of a
 * step, and campaigns up to a given term.
 */
import { assert } from '#libs/errors.ts'
import type {
  AcceptorMessage,
  MemberConfiguration,
  ProposerMessage,
} from '#libs/protocol/wal-push.ts'
import type { AcceptorEffect, AcceptorEvent } from '../../safekeeper/acceptor.ts'
import type { ControlState } from '../../safekeeper/control-state.ts'
import { AcceptorNodes } from './acceptor-node.ts'
import { Disks, type NamedEvent } from './disks.ts'
import { checkSafekeeper, committedLog, ModelViolation, type SafekeeperView } from './invariants.ts'
import { type ProposerMove, ProposerNodes, type ProposerOutput } from './proposer-node.ts'
import { logBytes, placesBelow, RECORD_BYTES, START_LSN } from './records.ts'
import { Interner } from './snapshot.ts'
import {
  type Action,
  type Compute,
  type Disk,
  EOF,
  type Link,
  type ModelOptions,
  type State,
} from './state.ts'

export class World {
  readonly options: ModelOptions
  readonly acceptors = new AcceptorNodes()
  readonly proposers = new ProposerNodes()
  readonly #disks = new Disks(this.acceptors)
  readonly #messages = new Interner<ProposerMessage | AcceptorMessage>()
  readonly #configuration: MemberConfiguration
  /** How often something worth seeing happened, over all states explored. */
  readonly seen = {
    elections: 0,
    reElections: 0,
    commits: 0,
    truncations: 0,
    crashes: 0,
    fetches: 0,
    fenced: 0,
  }

  constructor(options: ModelOptions) {
    this.options = options
    const members = Array.from({ length: options.safekeepers }, (_, index) => ({
      id: index + 1,
      host: `sk${index + 1}`,
      pgPort: 5454,
      httpPort: 7676,
    }))
    this.#configuration = { generation: 1, members, newMembers: null }
  }

  initial(control: (configuration: MemberConfiguration, startLsn: number) => ControlState): State {
    const initial = control(this.#configuration, START_LSN)
    const disks = this.#configuration.members.map(({ id }) => this.#disks.first(id, initial))
    return {
      computes: Array.from({ length: this.options.proposers }, () => null),
      disks,
      links: [],
      linkCounter: 0,
      committed: this.#disks.logId([]),
      leaders: [],
      crashes: 0,
      breaks: 0,
    }
  }

  /** False where the model ends: a term beyond the bound is known. */
  isWithin(state: State): boolean {
    const { maxTerm } = this.options
    return (
      state.disks.every((disk) => this.acceptors.state(disk.node).control.term <= maxTerm) &&
      state.computes.every((one) => one === null || this.proposers.state(one.core).term <= maxTerm)
    )
  }

  actions(state: State): Action[] {
    const actions: Action[] = []
    const add = (name: string, apply: (state: State) => void) => actions.push({ name, apply })
    for (const [index, compute] of state.computes.entries()) {
      if (compute === null) {
        // Computes are alike: the first that has not begun stands for all of them.
        if (state.computes.indexOf(null) !== index) continue
        for (const reach of this.#reaches(index)) {
          const name = `compute ${index} begins and reaches ${reach.join(', ')}`
          add(name, (next) => this.#begin(next, index, reach))
        }
      } else this.#computeActions(compute, index, add)
    }
    for (const link of state.links) this.#linkActions(state, link, add)
    for (const [index, disk] of state.disks.entries()) {
      const unsynced = this.#disks.isUnsynced(disk)
      if (unsynced) add(`safekeeper ${index + 1} syncs`, (next) => this.#sync(next, index))
      if (state.crashes < this.options.crashes) {
        add(`safekeeper ${index + 1} crashes`, (next) => this.#crash(next, index, false))
        if (unsynced) {
          add(`safekeeper ${index + 1} crashes, its writes were on disk`, (next) =>
            this.#crash(next, index, true),
          )
        }
      }
    }
    return actions
  }

  #computeActions(
    compute: Compute,
    index: number,
    add: (name: string, apply: (state: State) => void) => void,
  ): void {
    const core = this.proposers.state(compute.core)
    if (core.phase === 'fenced') return
    const move = (name: string, key: string, one: ProposerMove) => {
      const step = this.proposers.step(compute.core, key, one)
      if (step.next === compute.core && step.outputs.length === 0) return
      add(`compute ${index} ${name}`, (next) => this.#move(next, index, key, one))
    }
    const settled = core.phase === 'elected' && compute.base >= 0
    if (settled && compute.written < this.options.writes) {
      add(`compute ${index} writes`, (next) => this.#write(next, index))
    }
    if (this.options.news) move('tells of a commit', 'news', { kind: 'news' })
    const isDeposed = compute.base >= 0 && core.phase === 'collecting'
    // A deposed compute may look any number of times; only the last look makes a difference.
    if (!isDeposed) move('tries again', 'time', { kind: 'time' })
    if (isDeposed || (core.phase === 'elected' && compute.base < 0)) {
      move('has waited long', 'long-time', { kind: 'long-time' })
    }
    for (const fetch of compute.fetches) {
      add(`compute ${index} reads from ${fetch.donor} for ${fetch.node}`, (next) =>
        this.#fetch(next, index, fetch.node),
      )
    }
  }

  #linkActions(
    state: State,
    link: Link,
    add: (name: string, apply: (state: State) => void) => void,
  ): void {
    const { id, compute, safekeeper } = link
    const names = `${compute}-${safekeeper + 1}`
    const first = link.toSafekeeper[0]
    if (link.known && first !== undefined) {
      const what = first === EOF ? 'end' : this.#messages.value(first).kind
      add(`${what} ${names} arrives`, (next) => this.#toSafekeeper(next, id, null))
      if (first !== EOF && state.crashes < this.options.crashes) {
        const event = this.#eventOf(link, first)
        const disk = state.disks[safekeeper] as Disk
        const { effects } = this.acceptors.step(disk.node, event.key, event.event)
        for (let done = 1; done < effects.length; done += 1) {
          add(`${what} ${names} arrives, crash after effect ${done}`, (next) =>
            this.#toSafekeeper(next, id, done),
          )
        }
      }
    }
    const answer = link.toCompute[0]
    if (link.live && answer !== undefined) {
      const what = answer === EOF ? 'end' : this.#messages.value(answer).kind
      add(`${what} ${names} comes back`, (next) => this.#toCompute(next, id))
    }
    if (link.live && link.known && state.breaks < this.options.breaks) {
      add(`link ${names} breaks`, (next) => {
        next.breaks += 1
        this.#breakLink(next, id)
      })
    }
  }

  /** Safekeepers are alike before the first compute: one choice stands for all of its. */
  #reaches(index: number): number[][] {
    const ids = this.#configuration.members.map(({ id }) => id)
    const all = subsets(ids, this.options.reach)
    return index === 0 ? all.slice(0, 1) : all
  }

  #begin(state: State, index: number, reach: readonly number[]): void {
    const core = this.proposers.create(index, this.#configuration)
    state.computes[index] = { core, reach, base: -1, written: 0, fetches: [] }
    this.#event(state, index, 'start', { kind: 'start', nowMs: 0 })
  }

  #event(
    state: State,
    index: number,
    key: string,
    event: Extract<ProposerMove, { kind: 'event' }>['event'],
  ): void {
    this.#move(state, index, key, { kind: 'event', event })
  }

  #move(state: State, index: number, key: string, move: ProposerMove): void {
    const compute = state.computes[index] as Compute
    const { next, outputs } = this.proposers.step(compute.core, key, move)
    compute.core = next
    for (const output of outputs) this.#perform(state, index, output)
  }

  #perform(state: State, index: number, output: ProposerOutput): void {
    const compute = state.computes[index] as Compute
    switch (output.kind) {
      case 'connect':
        if (!compute.reach.includes(output.node)) break
        this.#unlink(state, index, output.node)
        state.linkCounter += 1
        state.links.push({
          id: state.linkCounter,
          compute: index,
          safekeeper: output.node - 1,
          toSafekeeper: [],
          toCompute: [],
          live: true,
          known: true,
        })
        this.#greet(state, index, output.node, state.linkCounter)
        break
      case 'disconnect':
        this.#unlink(state, index, output.node)
        break
      case 'send':
        this.#send(state, index, output.node, output.message)
        break
      case 'append': {
        const { beginLsn, endLsn } = output.header
        const wal = this.#walOf(state, compute, output.node, beginLsn, endLsn, output.relayed)
        if (wal === null) return
        this.#send(state, index, output.node, { kind: 'append', ...output.header, wal })
        break
      }
      case 'fetch':
        compute.fetches.push({
          node: output.node,
          donor: output.donor,
          beginLsn: output.beginLsn,
          endLsn: output.endLsn,
        })
        break
      case 're-elected':
        this.seen.reElections += 1
        this.#elected(state, index, output.term, output.startLsn)
        break
      case 'deposed':
        break
      case 'elected':
        this.#elected(state, index, output.term, output.startLsn)
        break
      case 'committed':
        this.#committed(state, index, output.lsn)
        break
      case 'fenced':
        this.seen.fenced += 1
        for (const { id } of this.#configuration.members) this.#unlink(state, index, id)
    }
  }

  /**
   * Connecting and both greetings are one step: a greeting changes nothing but what the compute knows
   * of terms, and to know less of them only makes its campaign fail.
   */
  #greet(state: State, index: number, node: number, id: number): void {
    this.#event(state, index, `connected ${node}`, { kind: 'connected', node, nowMs: 0 })
    const isOpen = () => state.links.some((one) => one.id === id && one.live)
    if (isOpen()) this.#toSafekeeper(state, id, null)
    if (isOpen()) this.#toCompute(state, id)
  }

  /** Bytes of an append: its own records, or for a relayed one those of the donor's disk. */
  #walOf(
    state: State,
    compute: Compute,
    node: number,
    beginLsn: number,
    endLsn: number,
    relayed: boolean,
  ): Buffer | null {
    const [from, to] = [placesBelow(beginLsn), placesBelow(endLsn)]
    if (from === to) return Buffer.alloc(0)
    if (relayed) {
      const fetch = compute.fetches.find((one) => one.node === node)
      assert(fetch !== undefined, 'a relayed append has a fetch')
      const donor = state.disks[fetch.donor - 1] as Disk
      return this.#disks.bytes(donor, from, to)
    }
    const index = state.computes.indexOf(compute)
    assert(compute.base >= 0 && from >= compute.base, 'the window holds own records only')
    const own = Array.from({ length: to }, () => index)
    return logBytes(own, from, to)
  }

  #fetch(state: State, index: number, node: number): void {
    const compute = state.computes[index] as Compute
    const fetch = compute.fetches.find((one) => one.node === node)
    assert(fetch !== undefined, 'the fetch is there')
    const donor = state.disks[fetch.donor - 1] as Disk
    const acceptor = this.acceptors.state(donor.node)
    const term = this.proposers.state(compute.core).term
    const usable =
      acceptor.control.term === term && START_LSN + donor.durable * RECORD_BYTES >= fetch.endLsn
    this.seen.fetches += 1
    if (usable) {
      const { beginLsn, endLsn } = fetch
      const key = `relay ${node} ${beginLsn} ${endLsn}`
      const step = this.proposers.step(compute.core, key, { kind: 'relay', node, beginLsn, endLsn })
      compute.core = step.next
      for (const output of step.outputs) {
        const relayed = output.kind === 'append' && output.relayed
        this.#perform(state, index, output)
        if (relayed) compute.fetches = compute.fetches.filter((one) => one !== fetch)
      }
    } else {
      this.#event(state, index, `fetch failed ${node}`, {
        kind: 'fetch-ended',
        node,
        complete: false,
      })
    }
    compute.fetches = compute.fetches.filter((one) => one !== fetch)
  }

  #write(state: State, index: number): void {
    const compute = state.computes[index] as Compute
    compute.written += 1
    const startLsn = START_LSN + compute.base * RECORD_BYTES
    const endLsn = startLsn + compute.written * RECORD_BYTES
    this.#event(state, index, `window ${startLsn} ${endLsn}`, { kind: 'window', startLsn, endLsn })
  }

  #send(state: State, index: number, node: number, message: ProposerMessage): void {
    const link = state.links.find(
      (one) => one.live && one.compute === index && one.safekeeper === node - 1,
    )
    if (link?.known) link.toSafekeeper.push(this.#message(message))
  }

  #unlink(state: State, index: number, node: number): void {
    for (const link of state.links) {
      if (!link.live || link.compute !== index || link.safekeeper !== node - 1) continue
      link.live = false
      link.toCompute = []
      if (link.known) link.toSafekeeper.push(EOF)
    }
    const compute = state.computes[index] as Compute
    compute.fetches = compute.fetches.filter((one) => one.node !== node)
    state.links = state.links.filter((one) => one.live || one.known)
  }

  /** The compute sees the end at once, the safekeeper after what was under way. */
  #breakLink(state: State, id: number): void {
    const link = state.links.find((one) => one.id === id) as Link
    this.#unlink(state, link.compute, link.safekeeper + 1)
    this.#disconnected(state, link)
  }

  #disconnected(state: State, link: Link): void {
    const node = link.safekeeper + 1
    const compute = state.computes[link.compute] as Compute
    compute.fetches = compute.fetches.filter((one) => one.node !== node)
    this.#event(state, link.compute, `disconnected ${node}`, {
      kind: 'disconnected',
      node,
      nowMs: 0,
    })
  }

  #toCompute(state: State, id: number): void {
    const link = state.links.find((one) => one.id === id) as Link
    const first = link.toCompute.shift() as number
    if (first === EOF) {
      link.live = false
      state.links = state.links.filter((one) => one.live || one.known)
      this.#disconnected(state, link)
      return
    }
    const node = link.safekeeper + 1
    const message = this.#messages.value(first) as AcceptorMessage
    this.#event(state, link.compute, `message ${node} ${first}`, {
      kind: 'message',
      node,
      message,
      nowMs: 0,
    })
  }

  #eventOf(link: Link, message: number): NamedEvent {
    return {
      key: `message ${link.id} ${message}`,
      event: {
        kind: 'message',
        connection: link.id,
        message: this.#messages.value(message) as ProposerMessage,
      },
    }
  }

  #toSafekeeper(state: State, id: number, crashAfter: number | null): void {
    const link = state.links.find((one) => one.id === id) as Link
    const first = link.toSafekeeper.shift() as number
    if (first === EOF) {
      link.known = false
      state.links = state.links.filter((one) => one.live || one.known)
      const event: AcceptorEvent = { kind: 'disconnected', connection: id }
      this.#accept(state, link.safekeeper, `disconnected ${id}`, event, null)
    } else {
      const { key, event } = this.#eventOf(link, first)
      this.#accept(state, link.safekeeper, key, event, crashAfter)
    }
  }

  #accept(
    state: State,
    index: number,
    key: string,
    event: AcceptorEvent,
    crashAfter: number | null,
  ): void {
    const disk = state.disks[index] as Disk
    const later: NamedEvent[] = []
    const step = this.acceptors.step(disk.node, key, event)
    disk.node = step.next
    for (const [done, effect] of step.effects.entries()) {
      if (done === crashAfter) {
        this.#crash(state, index, false)
        return
      }
      this.#effect(state, index, effect, later)
    }
    for (const one of later) this.#accept(state, index, one.key, one.event, null)
    // Without crashes to come a late sync is nothing but a late ack, which is explored anyway.
    if (this.#disks.isUnsynced(disk) && state.crashes >= this.options.crashes)
      this.#sync(state, index)
    this.#checkDisk(state, index)
  }

  #effect(state: State, index: number, effect: AcceptorEffect, later: NamedEvent[]): void {
    const disk = state.disks[index] as Disk
    switch (effect.kind) {
      case 'send': {
        const link = state.links.find((one) => one.id === effect.connection)
        if (link?.live) link.toCompute.push(this.#message(effect.message))
        break
      }
      case 'close': {
        const link = state.links.find((one) => one.id === effect.connection)
        if (link === undefined) break
        link.known = false
        link.toSafekeeper = []
        if (link.live) link.toCompute.push(EOF)
        state.links = state.links.filter((one) => one.live || one.known)
        break
      }
      case 'write':
        this.#disks.write(disk, effect)
        break
      case 'flush':
        if (this.#disks.isUnsynced(disk)) later.push(this.#disks.sync(disk))
        break
      case 'truncate':
        this.seen.truncations += 1
        this.#disks.truncate(disk, effect.lsn)
        break
      case 'persist':
        // One in the background may be lost in a crash, and so it always is.
        if (!effect.background) later.push(this.#disks.persist(disk, effect.control))
        break
      case 'halt':
        throw new ModelViolation(`I10: safekeeper ${index + 1} halts: ${effect.reason}`)
      case 'committed':
      case 'answer':
    }
  }

  #sync(state: State, index: number): void {
    const { key, event } = this.#disks.sync(state.disks[index] as Disk)
    this.#accept(state, index, key, event, null)
  }

  #crash(state: State, index: number, keepsWrites: boolean): void {
    this.seen.crashes += 1
    state.crashes += 1
    const disk = state.disks[index] as Disk
    this.#disks.crash(disk, index + 1, keepsWrites)
    for (const link of state.links) {
      if (link.safekeeper !== index || !link.known) continue
      link.known = false
      link.toSafekeeper = []
      if (link.live) link.toCompute.push(EOF)
    }
    state.links = state.links.filter((one) => one.live || one.known)
    this.#checkDisk(state, index)
  }

  /** I3: one leader in each term. */
  #elected(state: State, index: number, term: number, startLsn: number): void {
    this.seen.elections += 1
    const leader = `${term}:${index}:${startLsn}`
    const rival = state.leaders.find((one) => one.startsWith(`${term}:`))
    if (rival !== undefined && rival !== leader) {
      throw new ModelViolation(`I3: term ${term} has two leaders: ${rival} and ${leader}`)
    }
    if (rival === undefined) state.leaders.push(leader)
  }

  #committed(state: State, index: number, lsn: number): void {
    this.seen.commits += 1
    const length = placesBelow(lsn)
    const compute = state.computes[index] as Compute
    if (compute.base < 0) {
      compute.base = length
      const key = `window ${lsn} ${lsn}`
      this.#event(state, index, key, { kind: 'window', startLsn: lsn, endLsn: lsn })
    }
    const known = this.#disks.log(state.committed)
    const log = committedLog(this.#views(state), this.#configuration, known, length)
    if (log.length > known.length) state.committed = this.#disks.logId(log)
  }

  #checkDisk(state: State, index: number): void {
    const committed = this.#disks.log(state.committed)
    checkSafekeeper(this.#views(state), this.#configuration, committed, index)
  }

  #views(state: State): SafekeeperView[] {
    return state.disks.map((disk) => this.#disks.view(disk))
  }

  #message(message: ProposerMessage | AcceptorMessage): number {
    return this.#messages.idOf(message)
  }
}

/** All ways to take `size` of `ids`, in order. */
function subsets(ids: readonly number[], size: number): number[][] {
  if (size === 0) return [[]]
  return ids.flatMap((id, index) =>
    subsets(ids.slice(index + 1), size - 1).map((rest) => [id, ...rest]),
  )
}
