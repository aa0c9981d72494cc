/**
 * Three kinds of tests, told apart by the name: `*.test.ts` needs nothing and runs in parallel,
 * `*.sim.test.ts` runs seeded simulations, `*.pg.test.ts` starts real Postgres and real services,
 * three files at a time: most of them wait rather than compute.
 */
import { defineConfig } from 'vitest/config'

const TOP_FOLDERS = '{libs,pageserver,safekeeper,control,cli,compute,scripts,test_runner}'
const SIMULATION = `${TOP_FOLDERS}/**/*.sim.test.ts`
const POSTGRES = `${TOP_FOLDERS}/**/*.pg.test.ts`

// A server that checks its own assertions is several times slower.
const patience = process.env['ZENITH_POSTGRES_ASSERTIONS'] === '1' ? 4 : 1

// Node itself loads the sources, so what Node would refuse fails in tests too.
const common = { environment: 'node', experimental: { viteModuleRunner: false } } as const

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          ...common,
          name: 'unit',
          include: [`${TOP_FOLDERS}/**/*.test.ts`],
          exclude: [SIMULATION, POSTGRES],
          testTimeout: 30_000,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          ...common,
          name: 'sim',
          include: [SIMULATION],
          testTimeout: 900_000,
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
          maxWorkers: 3,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
})
