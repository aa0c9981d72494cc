/**
 * Three kinds of tests, told apart by the name: `*.test.ts` needs nothing and runs first,
 * `*.sim.test.ts` runs seeded simulations, `*.pg.test.ts` starts real Postgres and real services.
 * Simulations compute and most others wait rather than compute, so the two run side by side, and
 * more files at a time than there are cores.
 */
import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'
import { LongestFirst } from './test_runner/schedule/longest-first.ts'

const TOP_FOLDERS = '{libs,pageserver,safekeeper,control,cli,compute,scripts,test_runner}'
const SIMULATION = `${TOP_FOLDERS}/**/*.sim.test.ts`
const POSTGRES = `${TOP_FOLDERS}/**/*.pg.test.ts`

// A server that checks its own assertions is several times slower.
const patience = process.env['ZENITH_POSTGRES_ASSERTIONS'] === '1' ? 4 : 1

/**
 * Files of the two that run side by side. Three left a sixth of two cores idle, since most wait a
 * good deal: for processes to start, for what comes about by itself.
 */
const REAL_WORKERS = 4

const common = {
  environment: 'node',
  // Node itself loads the sources, so what Node would refuse fails in tests too.
  experimental: { viteModuleRunner: false },
  // A second, as vitest has it, is little where several processes share a busy core.
  expect: { poll: { timeout: 60_000 } },
} as const

export default defineConfig({
  test: {
    sequence: { sequencer: LongestFirst },
    teardownTimeout: 60_000,
    projects: [
      {
        test: {
          ...common,
          name: 'unit',
          include: [`${TOP_FOLDERS}/**/*.test.ts`],
          exclude: [SIMULATION, POSTGRES],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          // Loading what they test took a third of their time. What a file leaves in its process,
          // others meet.
          isolate: false,
          maxWorkers: availableParallelism() + 1,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          ...common,
          name: 'sim',
          include: [SIMULATION],
          testTimeout: 900_000,
          maxWorkers: REAL_WORKERS,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          ...common,
          name: 'pg',
          include: [POSTGRES],
          testTimeout: 600_000 * patience,
          hookTimeout: 600_000 * patience,
          maxWorkers: REAL_WORKERS,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
})
