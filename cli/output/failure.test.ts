import { afterEach, expect, test } from 'vitest'
import { buildProgram } from '../program.ts'
import { asTyped } from './failure.ts'

afterEach(() => {
  delete process.env['ZENITH_COMMAND']
})

test('hints name every command as the user typed it', () => {
  process.env['ZENITH_COMMAND'] = './zenith'
  const names = buildProgram('0').commands.map((command) => command.name())
  expect(names).toContain('pageserver')
  for (const name of [...names, '--help', '<command> --help']) {
    expect(asTyped(`See "zenith ${name}": zenith ${name}`)).toBe(
      `See "./zenith ${name}": ./zenith ${name}`,
    )
  }
  expect(asTyped('Zenith is stopped; a zenith, and zenith.md')).toBe(
    'Zenith is stopped; a zenith, and zenith.md',
  )
})
