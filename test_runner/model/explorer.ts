/** Breadth-first exploration of every state, so that the first violation found has a shortest way to it. */
import { errorMessage } from '#libs/errors.ts'
import { StateSet } from './state-set.ts'
import { copyState, type State, stateKey } from './state.ts'
import type { World } from './world.ts'

export interface Exploration {
  /** Distinct states, and steps between them that were tried. */
  readonly states: number
  readonly steps: number
  /** Length of the longest shortest way. */
  readonly depth: number
  /** False when `maxStates` ended it. */
  readonly complete: boolean
  readonly violation: { reason: string; path: string[] } | null
}

export interface ExploreOptions {
  readonly maxStates: number
  /** Called after each level. */
  readonly onLevel?: (depth: number, states: number, frontier: number) => void
}

/** Where a state came from: number of its parent, and which of the parent's actions led here. */
interface Origin {
  readonly parents: number[]
  readonly choices: number[]
}

/**
 * A state that is to be explored. There are hundreds of thousands of them at a time: as text each is
 * one object, where garbage collection would go through dozens.
 */
interface Frontier {
  readonly number: number
  readonly packed: string
}

export function explore(world: World, initial: State, options: ExploreOptions): Exploration {
  const known = new StateSet()
  const origin: Origin = { parents: [-1], choices: [-1] }
  known.add(stateKey(initial))
  let level: Frontier[] = [{ number: 0, packed: JSON.stringify(initial) }]
  let steps = 0
  let depth = 0
  while (level.length > 0) {
    const next: Frontier[] = []
    for (const { number, packed } of level) {
      const state = JSON.parse(packed) as State
      for (const [choice, action] of world.actions(state).entries()) {
        const reached = copyState(state)
        steps += 1
        try {
          action.apply(reached)
        } catch (error) {
          const path = [...pathTo(world, initial, origin, number), action.name]
          const violation = { reason: errorMessage(error), path }
          return { states: known.size, steps, depth, complete: false, violation }
        }
        if (!world.isWithin(reached) || !known.add(stateKey(reached))) continue
        next.push({ number: origin.parents.length, packed: JSON.stringify(reached) })
        origin.parents.push(number)
        origin.choices.push(choice)
      }
      if (known.size >= options.maxStates) {
        return { states: known.size, steps, depth, complete: false, violation: null }
      }
    }
    level = next
    depth += 1
    options.onLevel?.(depth, known.size, level.length)
  }
  return { states: known.size, steps, depth, complete: true, violation: null }
}

/** Names of the actions that lead from the initial state to state `number`. */
function pathTo(world: World, initial: State, origin: Origin, number: number): string[] {
  const choices: number[] = []
  for (let at = number; at > 0; at = origin.parents[at] as number) {
    choices.push(origin.choices[at] as number)
  }
  const path: string[] = []
  const state = copyState(initial)
  for (const choice of choices.reverse()) {
    const action = world.actions(state)[choice]
    if (action === undefined) throw new Error('the way to a state cannot be walked again')
    path.push(action.name)
    action.apply(state)
  }
  return path
}
