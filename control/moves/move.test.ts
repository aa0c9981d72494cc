/**
 * A model of pageservers, a store and computes, in which the machine is run with everything going
 * wrong (`testing/model-fleet.ts`): pageservers that restart, die and come back, moves that are given
 * up.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { AttachMode } from '#libs/api/attach-mode.ts'
import type { PlacementRecord } from '../records.ts'
import {
  Move,
  type MoveAnswer,
  type MoveEffect,
  PATIENCE_MS,
  STALLED_MS,
  WARM_UP_MS,
} from './move.ts'
import {
  abortMove,
  beginMove,
  finishMove,
  handOver,
  holdingOf,
  secondaryAfter,
  servingNode,
  takeOver,
  takesWrites,
} from './placement-changes.ts'
import {
  type Holder,
  ModelFleet,
  NODES,
  NOW,
  nodeCommands,
  stepCommands,
  TIMELINE,
} from './testing/model-fleet.ts'

const SPOILS = ['no-raise', 'no-tell', 'release-first', 'attached-at-once'] as const
type Spoil = (typeof SPOILS)[number] | null

interface Server {
  up: boolean
  holder: Holder | null
  warm: boolean
}

class World extends ModelFleet<MoveEffect, MoveAnswer> {
  placement: PlacementRecord = { shard: 0, pageserverId: 1, generation: 1, secondary: null }
  readonly servers = new Map<number, Server>(
    NODES.map((id) => [id, { up: true, holder: null, warm: false }]),
  )
  /** Where the compute reads. */
  compute = 1
  readonly spoil: Spoil

  constructor(spoil: Spoil) {
    super()
    this.spoil = spoil
    this.claim('1', 1)
    this.server(1).holder = { mode: 'attached', generation: 1, lsn: 100 }
  }

  server(id: number): Server {
    return this.servers.get(id) as Server
  }

  protected record(): PlacementRecord {
    return this.placement
  }

  protected makeMachine(nowMs: number): Move {
    return new Move(this.placement, nowMs)
  }

  protected isUp(id: number): boolean {
    return this.server(id).up
  }

  restart(id: number): void {
    const server = this.server(id)
    server.up = true
    server.holder = null
    server.warm = false
    if (this.placement.pageserverId === id) {
      this.placement = { ...this.placement, generation: this.placement.generation + 1 }
    }
    const holding = holdingOf(this.placement, id)
    if (holding?.kind === 'attach') this.#attach(id, holding.mode, holding.generation)
    server.warm = holding?.kind === 'secondary'
    this.crash()
    this.check()
  }

  die(id: number): void {
    const server = this.server(id)
    server.up = false
    server.holder = null
  }

  protected perform(effect: MoveEffect): MoveAnswer {
    if (effect.kind === 'swap') {
      if (this.placement === effect.expected) this.placement = this.#spoiled(effect.next)
      return { kind: 'record', placement: this.placement }
    }
    if (effect.kind === 'tell') {
      if (this.spoil !== 'no-tell') this.compute = servingNode(this.placement)
      return { kind: 'done' }
    }
    const server = this.server(effect.node)
    if (!server.up) return { kind: 'failed', reason: 'down' }
    switch (effect.kind) {
      case 'warm':
        server.holder = null
        server.warm = true
        return { kind: 'warmth', missingBytes: 0 }
      case 'hold':
        if (server.holder?.generation !== effect.generation) return failed('another generation')
        server.holder.mode = 'stale'
        return { kind: 'done' }
      case 'attach': {
        const mode = this.spoil === 'attached-at-once' ? 'attached' : effect.mode
        const known = server.holder?.generation ?? 0
        if (known > effect.generation) return failed('fenced')
        this.#attach(effect.node, mode, effect.generation)
        return this.#positions(server)
      }
      case 'measure':
        return server.holder ? this.#positions(server) : failed('not attached')
      case 'release':
        server.holder = null
        server.warm = effect.primary !== null
        return { kind: 'done' }
    }
  }

  #spoiled(next: PlacementRecord): PlacementRecord {
    const { move } = next
    if (this.spoil === 'no-raise' && move?.phase === 'attach') {
      return { ...next, generation: move.fromGeneration ?? next.generation }
    }
    if (this.spoil === 'release-first' && move?.phase === 'tell') {
      return { ...next, move: { ...move, phase: 'clean-up' } }
    }
    return next
  }

  #positions({ holder }: Server): MoveAnswer {
    return { kind: 'positions', positions: new Map([[TIMELINE, holder?.lsn ?? 0]]) }
  }

  #attach(id: number, mode: AttachMode, generation: number): void {
    const server = this.server(id)
    this.claim(String(generation), id)
    // A little WAL at each look.
    const lsn = Math.min(this.walLsn, (server.holder?.lsn ?? 90) + 5)
    server.warm = false
    server.holder = { mode, generation, lsn }
  }

  check(): void {
    const { placement } = this
    for (const [id, { up, holder }] of this.servers) {
      if (!up || !holder) continue
      if (holder.generation === placement.generation) {
        expect(id, 'the newest generation is that of the placement').toBe(placement.pageserverId)
      }
      // One that reads by an older manifest needs what a newer holder would release.
      if (holder.mode === 'attached' && holder.generation === placement.generation) {
        const serving = this.server(this.compute)
        const reads = this.compute !== id && serving.up && serving.holder !== null
        const given = placement.move?.lost === true
        expect(reads && !given, 'nothing is released under a reader').toBe(false)
      }
    }
    const read = this.server(this.compute)
    // A pageserver that is there, and that the compute reads from, has the tenant.
    const wasLost = placement.move?.lost === true
    if (read.up && !wasLost) expect(read.holder, 'reads never stop').not.toBeNull()
  }
}

const failed = (reason: string): MoveAnswer => ({ kind: 'failed', reason })

const command = fc.oneof(
  ...stepCommands(12),
  { weight: 1, arbitrary: fc.constant({ kind: 'abort' as const }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('move' as const), to: fc.constantFrom(...NODES) }),
  },
  nodeCommands,
)
type Command = typeof command extends fc.Arbitrary<infer T> ? T : never

function run(commands: readonly Command[], spoil: Spoil): World {
  const world = new World(spoil)
  const attempt = (decide: () => PlacementRecord) => {
    try {
      world.placement = decide()
    } catch {
      // Refused: nothing has changed.
    }
    world.crash()
  }
  for (const one of commands) {
    if (one.kind === 'step') world.step({ lose: one.lose })
    else if (one.kind === 'crash') world.crash()
    else if (one.kind === 'abort') attempt(() => abortMove(world.placement))
    else if (one.kind === 'move') attempt(() => beginMove(world.placement, one.to, NOW))
    else if (one.kind === 'restart') {
      // A compute reads on where the tenant is, once the pageserver is back.
      world.restart(one.node)
      if (world.server(world.compute).holder === null) world.compute = servingNode(world.placement)
    } else loseNode(world, one.node)
    world.walLsn += 1
  }
  world.settle()
  return world
}

/** It dies, and the control plane gives what it had to another one that is there. */
function loseNode(world: World, node: number): void {
  const others = NODES.filter((id) => id !== node && world.server(id).up)
  const { pageserverId, move } = world.placement
  const heir = [move?.from, move?.to, ...others].find((id) => others.includes(id as number))
  if (heir === undefined) return
  world.die(node)
  if (pageserverId === node) world.placement = takeOver(world.placement, heir, NOW)
  world.crash()
}

describe('a move', () => {
  it('goes from one to the other without a moment in which nobody serves', () => {
    const world = new World(null)
    world.placement = beginMove(world.placement, 2, NOW)
    const phases = new Set<string>()
    while (world.step()) phases.add(world.placement.move?.phase ?? 'done')
    expect([...phases]).toEqual(['warm-up', 'hold', 'attach', 'tell', 'clean-up', 'done'])
    expect(world.placement).toMatchObject({ pageserverId: 2, generation: 2 })
    expect(world.placement.move).toBeUndefined()
    expect(world.compute).toBe(2)
    expect(world.server(1).holder).toBeNull()
    expect(world.server(2).holder?.mode).toBe('attached')
  })

  it('ends well whatever happens on the way', () => {
    fc.assert(
      fc.property(fc.array(command, { minLength: 5, maxLength: 60 }), (commands) => {
        const world = run(commands, null)
        const { pageserverId, generation, move } = world.placement
        expect(move).toBeUndefined()
        expect(world.server(pageserverId).holder).toMatchObject({ mode: 'attached', generation })
      }),
      { numRuns: 1_500 },
    )
  })

  it.each(SPOILS)('would be caught by this model with the fault %s', (spoil) => {
    const property = fc.property(fc.array(command, { minLength: 5, maxLength: 60 }), (commands) => {
      run([{ kind: 'move', to: 2 }, ...commands], spoil)
    })
    expect(() => fc.assert(property, { numRuns: 500, endOnFailure: true })).toThrow()
  })

  it('can be given up until the generation is raised', () => {
    const world = new World(null)
    world.placement = beginMove(world.placement, 2, NOW)
    while (world.placement.move?.phase !== 'hold') world.step()
    world.step()
    expect(world.server(1).holder?.mode).toBe('stale')
    world.placement = abortMove(world.placement)
    world.crash()
    world.settle()
    expect(world.placement).toEqual({ shard: 0, pageserverId: 1, generation: 1, secondary: null })
    expect(world.server(1).holder?.mode).toBe('attached')
    expect(world.server(2).warm).toBe(false)

    world.placement = beginMove(world.placement, 2, NOW)
    world.crash()
    while (world.placement.move?.phase !== 'attach') world.step()
    expect(() => abortMove(world.placement)).toThrow('has gone too far')
  })

  it('goes on after a while when the new one cannot tell how warm it is', () => {
    const placement: PlacementRecord = { shard: 0, pageserverId: 1, generation: 1, secondary: null }
    const machine = new Move(beginMove(placement, 2, NOW), 0)
    const phaseAt = (nowMs: number) => {
      const effect = machine.next(nowMs) as MoveEffect
      if (effect.kind !== 'warm') return effect
      machine.answered(effect, { kind: 'warmth', missingBytes: null }, nowMs)
      return effect.kind
    }
    expect([phaseAt(0), phaseAt(WARM_UP_MS / 2)]).toEqual(['warm', 'warm'])
    expect(phaseAt(WARM_UP_MS)).toMatchObject({ kind: 'swap', next: { move: { phase: 'hold' } } })
  })

  it('waits for a new holder that gets on, and for one that does not only so long', () => {
    const begun = beginMove({ shard: 0, pageserverId: 1, generation: 1, secondary: null }, 2, NOW)
    const machine = new Move(handOver(begun, false), 0)
    const answer = (lsn: number, nowMs: number) => {
      const effect = machine.next(nowMs) as MoveEffect
      const positions = new Map([[TIMELINE, effect.kind === 'measure' ? 1_000 : lsn]])
      machine.answered(effect, { kind: 'positions', positions }, nowMs)
      return effect.kind
    }
    expect([answer(10, 0), answer(10, 0), answer(10, 0)]).toEqual(['attach', 'measure', 'attach'])
    for (let nowMs = 0; nowMs < 10 * STALLED_MS; nowMs += 20_000) {
      expect(answer(11 + nowMs / 20_000, nowMs)).toBe('attach')
    }
    const last = 10 * STALLED_MS - 20_000
    expect(machine.next(last + STALLED_MS / 2)?.kind).toBe('attach')
    expect(machine.next(last + 2 * STALLED_MS)).toMatchObject({
      kind: 'swap',
      next: { move: { phase: 'tell' } },
    })
  })

  it('goes on without the one that is left when that does not answer for long', () => {
    const world = new World(null)
    world.placement = beginMove(world.placement, 2, NOW)
    while (world.placement.move?.phase !== 'hold') world.step()
    world.die(1)
    let steps = 0
    for (; world.placement.move?.phase === 'hold'; steps++) world.step()
    expect(steps).toBeGreaterThanOrEqual(PATIENCE_MS / 1_000)
    expect(world.placement.move).toMatchObject({ phase: 'attach', lost: true })
  })
})

describe('a placement', () => {
  const placement: PlacementRecord = { shard: 0, pageserverId: 1, generation: 4, secondary: 2 }

  it('is taken over under the next generation, and goes home later', () => {
    const taken = takeOver(placement, 2, NOW)
    expect(taken).toMatchObject({ pageserverId: 2, generation: 5, secondary: null, home: 1 })
    expect(holdingOf(taken, 1)).toBeNull()
    expect(finishMove(taken).home).toBe(1)
    // Lost again before it went home: home is still where it was at first.
    expect(takeOver(finishMove(taken), 3, NOW).home).toBe(1)
    expect(beginMove(finishMove(taken), 1, NOW).home).toBeUndefined()
  })

  it('leaves a warm copy in the place of the one that serves now', () => {
    const moving = { ...beginMove(placement, 2, NOW), pageserverId: 2 }
    expect(secondaryAfter(moving)).toBe(1)
    expect(secondaryAfter({ ...moving, secondary: 3 })).toBe(3)
  })

  it('refuses a second move, joins the same one, and takes no writes while it is handed over', () => {
    const moving = beginMove(placement, 2, NOW)
    expect(beginMove(moving, 2, NOW)).toBe(moving)
    expect(() => beginMove(moving, 3, NOW)).toThrow('It is just being moved to pageserver 2.')
    expect(beginMove(placement, 1, NOW)).toBe(placement)
    expect(takesWrites(moving)).toBe(true)
    expect(takesWrites({ ...moving, move: { ...moving.move, phase: 'hold' } as never })).toBe(false)
  })
})
