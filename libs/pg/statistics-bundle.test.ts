import { expect, it } from 'vitest'
import { packStatistics, unpackStatistics } from './statistics-bundle.ts'

const files = [
  { path: 'pg_stat/pgstat.stat', content: Buffer.from([1, 0, 255, 10]) },
  { path: 'pg_stat/pg_stat_statements.stat', content: Buffer.alloc(100_000, 'q') },
  { path: 'pg_stat/empty', content: Buffer.alloc(0) },
]

it('gives back what was packed', () => {
  expect(unpackStatistics(packStatistics(files))).toEqual(files)
  expect(unpackStatistics(packStatistics([]))).toEqual([])
})

it('refuses every other byte and every cut', () => {
  const bundle = packStatistics(files)
  for (let at = 0; at < bundle.length; at++) {
    const changed = Buffer.from(bundle)
    changed[at] = (changed[at] as number) ^ 0x15
    expect(() => unpackStatistics(changed)).toThrow(/bundle of statistics is damaged/)
    expect(() => unpackStatistics(bundle.subarray(0, at))).toThrow(/is damaged/)
  }
})

it('refuses names that lead elsewhere', () => {
  for (const path of ['global/pg_control', 'pg_stat/../PG_VERSION', 'pg_stat/a/b', 'pg_stat/']) {
    const bundle = packStatistics([{ path, content: Buffer.from('x') }])
    expect(() => unpackStatistics(bundle)).toThrow(/it holds/)
  }
})
