/**
 * Explores every state of a small WAL service, over the proposer and acceptor that production runs:
 *
 *   npm run model -- --proposers 2 --safekeepers 3 --terms 3 --writes 1 --crashes 1 --breaks 1
 *   npm run model -- --mutation commit-without-term-start     a rule broken on purpose
 */
import { parseArgs } from 'node:util'
import './open-fields.ts'

const { values } = parseArgs({
  options: {
    safekeepers: { type: 'string', default: '3' },
    proposers: { type: 'string', default: '2' },
    terms: { type: 'string', default: '2' },
    writes: { type: 'string', default: '1' },
    reach: { type: 'string' },
    crashes: { type: 'string', default: '0' },
    breaks: { type: 'string', default: '0' },
    news: { type: 'boolean', default: false },
    mutation: { type: 'string' },
    'max-states': { type: 'string', default: '3000000' },
    quiet: { type: 'boolean', default: false },
  },
})

// Loaded only now: the fields of the cores must be open by then.
const { World } = await import('./world.ts')
const { explore } = await import('./explorer.ts')
const { initialControl } = await import('./initial-control.ts')
const { mutate } = await import('./mutations.ts')

if (values.mutation !== undefined) mutate(values.mutation)
const world = new World({
  safekeepers: Number(values.safekeepers),
  proposers: Number(values.proposers),
  maxTerm: Number(values.terms),
  writes: Number(values.writes),
  reach: Number(values.reach ?? values.safekeepers),
  news: values.news,
  crashes: Number(values.crashes),
  breaks: Number(values.breaks),
})
const startedAt = performance.now()
const result = explore(world, world.initial(initialControl), {
  maxStates: Number(values['max-states']),
  onLevel: (depth, states, frontier) => {
    if (!values.quiet) process.stderr.write(`depth ${depth}: ${states} states, ${frontier} new\n`)
  },
})
const seconds = (performance.now() - startedAt) / 1000
const { violation, ...figures } = result
process.stdout.write(
  `${JSON.stringify({
    ...figures,
    seconds: Math.round(seconds * 10) / 10,
    acceptorStates: world.acceptors.size,
    acceptorSteps: world.acceptors.transitions,
    proposerStates: world.proposers.size,
    proposerSteps: world.proposers.transitions,
    seen: world.seen,
    violation: violation?.reason ?? null,
  })}\n`,
)
if (violation !== null) {
  process.stdout.write(`${violation.path.map((one, index) => `${index + 1}. ${one}`).join('\n')}\n`)
  process.stdout.write(`${violation.reason}\n`)
}
process.exitCode = violation === null ? 0 : 1
