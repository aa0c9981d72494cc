/**
 * Drives one timeline from its members C to C', and finishes or undoes what an earlier life of the
 * control plane began. Pure: `step` takes an event and returns effects; no clock, store or network.
 *
 * All that must survive is the membership record; the rest is asked for again. So a control plane
 * that dies anywhere makes a new machine from the record, and every request is safe to repeat:
 *
 *   copy      newcomers are given the log by the most advanced member, before anything changes for
 *             the compute. Nobody counts them yet, so what they hold need not be complete.
 *   switch    the joint configuration goes to the members. From a majority of C on, no proposer of
 *             the old configuration can be elected or commit. Their highest position and term then
 *             bound all that was ever committed or elected under it: `syncPosition`, `syncTerm`.
 *   catch-up  terms are raised to `syncTerm` on the new members (otherwise a term could be won
 *             twice: by a majority of C before, and by one of C' after), and they get to
 *             `syncPosition`: by the compute's stream, by a copy, or by an election.
 *   (swap)    a majority of C' has both, under the joint configuration: C' alone from now on, and
 *             those who are out are to be deleted, in one compare-and-swap.
 *   announce  C' is told its configuration, and the pageserver where WAL is.
 *   clean-up  copies on those who are out are deleted.
 *
 * The shell answers each request to a node with one `report`, `pulling`, `failed` or `deleted`, each
 * `swap` with `record` or `swap-failed`, `tell` with `told` or `not-told`, `elect` with `elected`. A request whose
 * answer never comes blocks only its own node: shells have time limits. At most one request per node
 * is out. Positions and terms of a safekeeper only rise as (lastLogTerm, flush), so an old answer is
 * never too good; one that fails takes its node out of the count.
 */
import { assert } from '#libs/errors.ts'
import type { Member, MemberConfiguration } from '#libs/protocol/wal-push.ts'
import {
  abortChange,
  allMembers,
  comparePositions,
  type Deletion,
  finishChange,
  type LogPosition,
  majorityOf,
  type MemberReport,
  type Membership,
  newcomers,
  sameMembership,
} from './membership.ts'

/** How long new members that are not ready are waited for once a majority of them is. */
const STRAGGLER_MS = 15_000
/** How long a stream may take to bring new members up before an election without a compute is asked for. */
export const CATCH_UP_MS = 3_000

export type MigrationEvent =
  /** Time to ask again; a few times each second. */
  | { kind: 'tick'; nowMs: number }
  /** What the store holds now: after a swap, whoever won it, or at any other time. */
  | { kind: 'record'; membership: Membership }
  | { kind: 'swap-failed' }
  | { kind: 'report'; node: number; report: MemberReport }
  /** A copy is under way there. */
  | { kind: 'pulling'; node: number; copiedBytes: number; totalBytes: number }
  /** `absent`: it answered, and has no such timeline. */
  | { kind: 'failed'; node: number; absent: boolean; reason: string }
  /** The deletion was done, or is void since a newer generation lives there. */
  | { kind: 'deleted'; node: number }
  | { kind: 'told' }
  | { kind: 'not-told'; reason: string }
  /** The election asked for has ended, whichever way. */
  | { kind: 'elected' }
  /** Go back to the old members, if that is still possible. */
  | { kind: 'abort' }

export type MigrationEffect =
  /** Store `next` if the record is still `expected`. */
  | { kind: 'swap'; expected: Membership; next: Membership }
  | { kind: 'query'; node: number }
  /** Have a configuration stored, if it is newer than the one there. */
  | { kind: 'configure'; node: number; configuration: MemberConfiguration }
  | { kind: 'bump-term'; node: number; term: number }
  /** Copy the timeline from the first donor that can give `minimum`; done already is fine. */
  | {
      kind: 'pull'
      node: number
      donors: Member[]
      configuration: MemberConfiguration
      minimum: SyncPoint | null
    }
  | { kind: 'delete'; node: number; generation: number }
  /** Tell the pageserver which safekeepers there are, and whoever else wants to know. */
  | { kind: 'tell'; safekeepers: number[] }
  /** If no compute writes: hold an election, which brings everybody to the same position. */
  | { kind: 'elect'; configuration: MemberConfiguration }

/** What a majority of the new members must have reached before they may be alone. */
export interface SyncPoint {
  readonly term: number
  readonly position: LogPosition
}

export type MigrationPhase = 'copy' | 'switch' | 'catch-up' | 'announce' | 'clean-up' | 'done'

export interface MigrationOptions {
  membership: Membership
  /** Of all members, old and new, and of those to delete from that are still registered. */
  addresses: ReadonlyMap<number, Member>
}

/** What is known of one member of the change. */
export interface NodeProgress {
  readonly id: number
  readonly report: MemberReport | null
  /** It has reached what it must have for the change to finish. */
  readonly ready: boolean
  readonly pulling: CopyProgress | null
  readonly problem: string | null
}

export interface CopyProgress {
  readonly copiedBytes: number
  readonly totalBytes: number
}

interface NodeView {
  /** Latest word; null after a failure. */
  report: MemberReport | null
  /** It answered that it has no such timeline. */
  absent: boolean
  asked: boolean
  pulling: CopyProgress | null
  problem: string | null
}

export class Migration {
  #membership: Membership
  readonly #addresses: ReadonlyMap<number, Member>
  readonly #nodes = new Map<number, NodeView>()
  #nowMs = 0
  #abortWanted = false
  #swapping = false
  #telling = false
  #told = false
  #electing = false
  #deleted = new Set<string>()
  #sync: SyncPoint | null = null
  /** Since when a majority of the new members is ready, and since when catching up is waited for. */
  #readySinceMs: number | null = null
  #catchUpSinceMs: number | null = null

  constructor(options: MigrationOptions) {
    this.#membership = options.membership
    this.#addresses = options.addresses
  }

  get membership(): Membership {
    return this.#membership
  }

  /** Where new members have to get to; null until a majority of the old ones has switched. */
  get syncPoint(): SyncPoint | null {
    return this.#sync
  }

  get phase(): MigrationPhase {
    const { newMembers, announced, deletions } = this.#membership
    if (newMembers !== null) {
      if (this.#sync !== null) return 'catch-up'
      return this.#copied() ? 'switch' : 'copy'
    }
    if (!announced) return 'announce'
    return deletions.length > 0 ? 'clean-up' : 'done'
  }

  /** What is known of each node, for people. */
  nodes(): NodeProgress[] {
    return allMembers(this.#membership).map((id) => {
      const { report, problem, pulling } = this.#node(id)
      return { id, report, ready: this.#ready(id), problem, pulling }
    })
  }

  step(event: MigrationEvent): MigrationEffect[] {
    const effects: MigrationEffect[] = []
    switch (event.kind) {
      case 'tick':
        this.#nowMs = event.nowMs
        this.#ask(effects)
        break
      case 'record':
        this.#swapping = false
        this.#adopt(event.membership)
        break
      case 'swap-failed':
        this.#swapping = false
        return effects
      case 'report':
        this.#answered(event.node, { report: event.report, absent: false, problem: null })
        break
      case 'pulling': {
        const { copiedBytes, totalBytes } = event
        this.#answered(event.node, { pulling: { copiedBytes, totalBytes } })
        break
      }
      case 'failed':
        this.#answered(event.node, { report: null, absent: event.absent, problem: event.reason })
        break
      case 'deleted':
        this.#answered(event.node, {})
        this.#deleted.add(deletionKey(this.#deletionOf(event.node)))
        break
      case 'told':
        this.#telling = false
        this.#told = true
        break
      case 'not-told':
        this.#telling = false
        break
      case 'elected':
        this.#electing = false
        this.#catchUpSinceMs = this.#nowMs
        break
      case 'abort':
        this.#abortWanted = this.#membership.newMembers !== null
    }
    this.#decide(effects)
    return effects
  }

  #adopt(membership: Membership): void {
    if (membership.generation !== this.#membership.generation) {
      this.#sync = null
      this.#readySinceMs = null
      this.#catchUpSinceMs = null
      this.#told = false
      if (membership.newMembers === null) this.#abortWanted = false
    }
    this.#membership = membership
  }

  #node(id: number): NodeView {
    const known = this.#nodes.get(id)
    if (known) return known
    const view = { report: null, absent: false, asked: false, pulling: null, problem: null }
    this.#nodes.set(id, view)
    return view
  }

  #answered(id: number, news: Partial<NodeView>): void {
    this.#nodes.set(id, { ...this.#node(id), asked: false, pulling: null, ...news })
  }

  #configuration(): MemberConfiguration {
    const { generation, members, newMembers } = this.#membership
    return {
      generation,
      members: this.#addressesOf(members),
      newMembers: newMembers === null ? null : this.#addressesOf(newMembers),
    }
  }

  #addressesOf(ids: readonly number[]): Member[] {
    return ids.map((id) => {
      const address = this.#addresses.get(id)
      // Left out it would shrink the set, and with it what counts as a majority.
      assert(address !== undefined, `the address of safekeeper ${id} is known`)
      return address
    })
  }

  /** One request to each node that owes no answer. */
  #ask(effects: MigrationEffect[]): void {
    const { generation, newMembers, announced } = this.#membership
    if (newMembers !== null) {
      for (const id of allMembers(this.#membership)) this.#request(id, this.#nextStep(id), effects)
      return
    }
    if (!announced) {
      const configuration = this.#configuration()
      for (const node of this.#membership.members) {
        if ((this.#node(node).report?.generation ?? -1) >= generation) continue
        this.#request(node, { kind: 'configure', node, configuration }, effects)
      }
      return
    }
    for (const deletion of this.#membership.deletions) {
      if (this.#deleted.has(deletionKey(deletion))) continue
      this.#request(deletion.node, { kind: 'delete', ...deletion }, effects)
    }
  }

  #request(id: number, effect: MigrationEffect | null, effects: MigrationEffect[]): void {
    const view = this.#node(id)
    if (effect === null || view.asked || !this.#addresses.has(id)) return
    view.asked = true
    effects.push(effect)
  }

  /** What one member is asked for while the change is under way. */
  #nextStep(node: number): MigrationEffect {
    const { generation } = this.#membership
    const { report } = this.#node(node)
    const configuration = this.#configuration()
    const sync = this.#sync
    if (this.#lacksCopy(node)) return this.#pull(node, configuration) ?? { kind: 'query', node }
    // Until the copies are there, nothing changes for the members and their compute.
    if (!this.#copied() || report === null) return { kind: 'query', node }
    if (sync !== null && report.generation === generation && report.term < sync.term) {
      return { kind: 'bump-term', node, term: sync.term }
    }
    return { kind: 'configure', node, configuration }
  }

  /** It said so, and it is one of those who are to be given a copy. */
  #lacksCopy(id: number): boolean {
    const { generation, rebuild } = this.#membership
    const { report, absent } = this.#node(id)
    if (rebuild.includes(id)) return absent
    if (!newcomers(this.#membership).includes(id)) return false
    return absent || (report !== null && report.generation < generation)
  }

  #pull(node: number, configuration: MemberConfiguration): MigrationEffect | null {
    // One that was a member may have promised what it lost: only what bounds that will do.
    const rebuilt = this.#membership.rebuild.includes(node)
    const minimum = rebuilt ? this.#sync : null
    if (rebuilt && minimum === null) return null
    const donors = allMembers(this.#membership)
      .filter((id) => id !== node && this.#node(id).report !== null && !this.#lacksCopy(id))
      .filter((id) => minimum === null || this.#reached(id, minimum))
      .sort((a, b) => comparePositions(this.#position(b), this.#position(a)))
    if (donors.length === 0) return null
    return { kind: 'pull', node, donors: this.#addressesOf(donors), configuration, minimum }
  }

  #position(id: number): LogPosition {
    return this.#node(id).report ?? { lastLogTerm: -1, flushLsn: 0 }
  }

  #reached(id: number, sync: SyncPoint): boolean {
    return comparePositions(this.#position(id), sync.position) >= 0
  }

  /** Every newcomer has a copy, so that the joint configuration can commit as soon as it is in force. */
  #copied(): boolean {
    if (this.#sync !== null) return true
    const { generation } = this.#membership
    return newcomers(this.#membership).every(
      (id) => this.#node(id).report?.generation === generation,
    )
  }

  #decide(effects: MigrationEffect[]): void {
    const { newMembers } = this.#membership
    if (this.#swapping) return
    if (newMembers !== null) {
      if (this.#abortWanted) this.#swap(abortChange(this.#membership), effects)
      else this.#decideFinish(effects)
    } else if (!this.#membership.announced) this.#decideAnnounced(effects)
    else this.#decideCleaned(effects)
  }

  #swap(next: Membership, effects: MigrationEffect[]): void {
    if (sameMembership(next, this.#membership)) return
    this.#swapping = true
    effects.push({ kind: 'swap', expected: this.#membership, next })
  }

  #decideFinish(effects: MigrationEffect[]): void {
    const { newMembers, rebuild } = this.#membership
    this.#measure()
    if (newMembers === null || this.#sync === null) return
    const unready = newMembers.filter((id) => !this.#ready(id))
    const ready = newMembers.length - unready.length
    if (ready < majorityOf(newMembers.length)) {
      this.#readySinceMs = null
      this.#decideElection(newMembers, effects)
      return
    }
    this.#readySinceMs ??= this.#nowMs
    if (unready.length > 0 && this.#nowMs - this.#readySinceMs < STRAGGLER_MS) return
    const lacking = unready.filter((id) => rebuild.includes(id))
    this.#swap(finishChange(this.#membership, lacking), effects)
  }

  /** A majority could be ready and is not: perhaps nobody streams to those who are behind. */
  #decideElection(newMembers: readonly number[], effects: MigrationEffect[]): void {
    const { generation } = this.#membership
    const joint = newMembers.filter((id) => this.#node(id).report?.generation === generation)
    this.#catchUpSinceMs ??= this.#nowMs
    if (this.#electing || joint.length < majorityOf(newMembers.length)) return
    if (this.#nowMs - this.#catchUpSinceMs < CATCH_UP_MS) return
    this.#electing = true
    effects.push({ kind: 'elect', configuration: this.#configuration() })
  }

  /**
   * Takes the bound from a majority of the old members, all of whom have left the old configuration.
   * Each such majority gives a valid one, at any time, so the lowest ever seen is kept: a compute
   * that goes on writing must not move the goal.
   */
  #measure(): void {
    const { members, rebuild, generation } = this.#membership
    const switched = members.flatMap((id) => {
      const { report } = this.#node(id)
      return report?.generation === generation && !rebuild.includes(id) ? [report] : []
    })
    if (switched.length < majorityOf(members.length)) return
    const position = switched.reduce((a, b) => (comparePositions(a, b) >= 0 ? a : b))
    const term = Math.max(...switched.map((report) => report.term))
    const known = this.#sync
    this.#sync = {
      term: Math.min(term, known?.term ?? term),
      position:
        known !== null && comparePositions(known.position, position) <= 0
          ? known.position
          : { lastLogTerm: position.lastLogTerm, flushLsn: position.flushLsn },
    }
  }

  /** I25 for one new member. */
  #ready(id: number): boolean {
    const { report } = this.#node(id)
    const sync = this.#sync
    if (report === null || sync === null) return false
    const joint = report.generation === this.#membership.generation
    return joint && report.term >= sync.term && this.#reached(id, sync)
  }

  #decideAnnounced(effects: MigrationEffect[]): void {
    const { members, generation } = this.#membership
    const known = members.filter((id) => (this.#node(id).report?.generation ?? -1) >= generation)
    if (known.length < majorityOf(members.length)) return
    if (this.#told) this.#swap({ ...this.#membership, announced: true }, effects)
    else if (!this.#telling) {
      this.#telling = true
      effects.push({ kind: 'tell', safekeepers: [...members] })
    }
  }

  #decideCleaned(effects: MigrationEffect[]): void {
    // A safekeeper that is not registered any more has nobody to be told.
    const left = this.#membership.deletions.filter(
      (one) => this.#addresses.has(one.node) && !this.#deleted.has(deletionKey(one)),
    )
    this.#swap({ ...this.#membership, deletions: left }, effects)
  }

  #deletionOf(node: number): Deletion {
    const found = this.#membership.deletions.find((one) => one.node === node)
    return found ?? { node, generation: this.#membership.generation }
  }
}

function deletionKey({ node, generation }: Deletion): string {
  return `${node}@${generation}`
}
