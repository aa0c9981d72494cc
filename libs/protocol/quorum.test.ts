import { describe, expect, it } from 'vitest'
import { allMembers, configurationProblem, isQuorum, majority, quorumLsn } from './quorum.ts'
import type { MemberConfiguration } from './wal-push.ts'

const member = (id: number) => ({ id, host: `sk${id}`, pgPort: 1, httpPort: 2 })
const range = (first: number, count: number) =>
  Array.from({ length: count }, (_, index) => first + index)

/** Sets of 1 to 6, and all overlaps of two such sets. */
function* configurations(): Generator<MemberConfiguration> {
  for (let size = 1; size <= 6; size += 1) {
    const members = range(0, size).map(member)
    yield { generation: 1, members, newMembers: null }
    for (let newSize = 1; newSize <= 6; newSize += 1) {
      // Overlaps by all numbers of common members, with 9 nodes at most.
      for (let first = Math.max(0, 9 - newSize - 6); first + newSize <= 9; first += 1) {
        if (first > size) break
        yield { generation: 1, members, newMembers: range(first, newSize).map(member) }
      }
    }
  }
}

const count = (bits: number) => bits.toString(2).replaceAll('0', '').length
const bitsOf = (members: readonly { id: number }[]) =>
  members.reduce((bits, { id }) => bits | (1 << id), 0)
const isMajority = (set: number, has: number) => 2 * count(set & has) > count(set)

describe('quorums', () => {
  it('are majorities', () => {
    expect([1, 2, 3, 4, 5, 6].map(majority)).toEqual([1, 2, 2, 3, 3, 4])
  })

  it('are majorities of each set, and any two of one configuration share a member', () => {
    let checked = 0
    for (const configuration of configurations()) {
      const sets = [bitsOf(configuration.members)]
      if (configuration.newMembers !== null) sets.push(bitsOf(configuration.newMembers))
      const all = bitsOf(allMembers(configuration))
      const quorums: number[] = []
      for (let has = 0; has <= all; has += 1) {
        if ((has & ~all) !== 0) continue
        const expected = sets.every((set) => isMajority(set, has))
        if (isQuorum(configuration, (id) => (has & (1 << id)) !== 0) !== expected) {
          expect.unreachable(`${JSON.stringify(sets)} with ${has}`)
        }
        if (expected) quorums.push(has)
      }
      for (const a of quorums) for (const b of quorums) if ((a & b) === 0) expect.unreachable()
      checked += 1
    }
    expect(checked).toBeGreaterThan(80)
  })

  it('have the highest position that some quorum has reached', () => {
    let state = 7
    const random = (max: number) => {
      state = (state * 1103515245 + 12345) % 2147483648
      return state % max
    }
    for (const configuration of configurations()) {
      for (let round = 0; round < 20; round += 1) {
        const positions = range(0, 9).map(() => random(5) * 8)
        const at = (id: number) => positions[id] as number
        const reached = [0, 8, 16, 24, 32].filter((lsn) =>
          isQuorum(configuration, (id) => at(id) >= lsn),
        )
        expect(quorumLsn(configuration, at)).toBe(reached.at(-1))
      }
    }
  })

  it('count a safekeeper that is listed twice once', () => {
    const configuration = { generation: 1, members: [1, 1, 2].map(member), newMembers: null }
    expect(isQuorum(configuration, (id) => id === 1)).toBe(false)
    expect(configurationProblem(configuration)).toContain('twice')
  })

  it('refuse two safekeepers at one address, also across the two sets', () => {
    const impostor = { ...member(1), id: 9 }
    const configuration = { generation: 1, members: [member(1)], newMembers: [impostor] }
    expect(configurationProblem(configuration)).toContain('1 and 9 both at sk1:1')
    const moved = { ...member(1), host: 'elsewhere' }
    const move = { generation: 1, members: [member(1)], newMembers: [moved] }
    expect(configurationProblem(move)).toBeNull()
    expect(allMembers(move)).toEqual([moved])
  })
})
