import { describe, expect, it } from 'vitest'
import { checkName, nearMatches, unknownName } from './names.ts'

describe('names', () => {
  it('takes what the rule allows and states the rule otherwise', () => {
    for (const good of ['main', 'migration_check', 'v1.2-rc', '0', 'a'.repeat(63)]) {
      expect(() => checkName('branch', good)).not.toThrow()
    }
    for (const bad of ['', 'Main', '-x', '../x', 'a b', 'a/b', 'a'.repeat(64), 'ü', '.hidden']) {
      expect(() => checkName('branch', bad)).toThrow(`"${bad}" cannot be the name of a branch.`)
    }
  })

  it('suggests near names first, else shows what there is', () => {
    const known = ['main', 'migration_check', 'staging']
    expect(nearMatches('mian', known)).toEqual(['main'])
    expect(nearMatches('migr', known)).toEqual(['migration_check'])
    expect(unknownName('branch', 'stagign', known).hint).toBe('Did you mean "staging"?')
    expect(unknownName('branch', 'zzzzzzz', known).hint).toBe(
      'There are: "main", "migration_check", "staging".',
    )
    expect(unknownName('endpoint', 'x', []).hint).toBe('There is no endpoint yet.')
  })
})
