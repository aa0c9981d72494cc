/**
 * The exhaustive model check in a process of its own, since it loads the cores with open fields: the
 * whole of a small service, and the proof that broken rules are found.
 */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url))

interface Figures {
  states: number
  complete: boolean
  seen: Record<string, number>
  violation: string | null
}

function explore(...args: string[]): Promise<Figures> {
  return new Promise((resolve, reject) => {
    const options = { maxBuffer: 1 << 24 }
    // Most of what an exploration makes is garbage at once.
    const command = ['--max-semi-space-size=128', MAIN, '--quiet', ...args]
    execFile(process.execPath, command, options, (error, stdout) => {
      const [line = ''] = stdout.split('\n')
      if (line.startsWith('{')) resolve(JSON.parse(line) as Figures)
      else reject(error ?? new Error('the model check printed nothing'))
    })
  })
}

test.each([
  ['two computes, three safekeepers of which each reaches two', 2, 'fetches', ['--reach', '2']],
  ['two computes, one safekeeper', 4, 'reElections', ['--safekeepers', '1']],
  [
    'two computes, one safekeeper that crashes',
    3,
    'crashes',
    ['--safekeepers', '1', '--crashes', '1'],
  ],
] as const)('%s, terms up to %i: every state is sound', async (_, terms, happens, args) => {
  const figures = await explore('--proposers', '2', '--terms', String(terms), ...args)
  console.log(`model check: ${JSON.stringify(figures)}`)
  expect(figures).toMatchObject({ violation: null, complete: true })
  expect(figures.states).toBeGreaterThan(100_000)
  for (const name of ['commits', 'fenced', happens]) expect(figures.seen[name]).toBeGreaterThan(0)
})

test.each([['vote-not-durable', ['--terms', '2', '--reach', '2', '--crashes', '1']]])(
  '"%s" is found out',
  async (mutation, args) => {
    const figures = await explore('--mutation', mutation, ...args)
    expect(figures.violation).not.toBeNull()
  },
)
