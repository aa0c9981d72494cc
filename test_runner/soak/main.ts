/**
 * `npm run soak -- [--minutes 20] [--seed N]`: see soak.ts. Prints what it does and, at the end, its
 * figures; exit code 1 when something was wrong.
 */
import { parseArgs } from 'node:util'
import { Soak } from './soak.ts'

const MIB = 1024 * 1024
const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '20' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
})
const minutes = Number(values.minutes)
const seed = Number(values.seed)
if (!(minutes > 0) || !Number.isSafeInteger(seed)) {
  throw new Error('--minutes and --seed take numbers')
}

console.log(`seed ${seed}, ${minutes} minutes`)
const say = (text: string) => console.log(`${new Date().toISOString()} ${text}`)
try {
  const result = await Soak.run({ minutes, seed, say })
  const { logicalBytes, storedBytes, mostLocalBytes, transactions, actions } = result
  const { evictions, downloads } = result
  console.log(
    [
      `${transactions} transactions, all sums right, now and in the past`,
      `actions: ${JSON.stringify(actions)}`,
      `local layers at most ${(mostLocalBytes / MIB).toFixed(0)} MiB; ${evictions} files evicted, ${downloads} fetched`,
      `at the end ${(storedBytes / MIB).toFixed(0)} MiB stored for ${(logicalBytes / MIB).toFixed(0)} MiB ` +
        `of data on all branches: ${(storedBytes / logicalBytes).toFixed(2)} times`,
    ].join('\n'),
  )
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
}
