/** `npm run bench -- --only wal`: the WAL service alone, beside stock Postgres and the bare disk. */
import { measureAppends } from './append-workload.ts'
import { measureCommits } from './commit-workload.ts'
import type { Report } from './report.ts'
import { startVanilla, startZenith } from './subject.ts'

const SAFEKEEPERS = [1, 3]

export interface WalOptions {
  rounds: number
  scale: number
  seconds: number
  copyMegabytes: number
}

/** Appends and the disk, then in each round commits of stock Postgres and of Zenith with 1 and 3. */
export async function measureWalService(
  options: WalOptions,
  report: Report,
  say: (text: string) => void,
): Promise<void> {
  for (let round = 1; round <= options.rounds; round++) {
    say(`round ${round}: appends to one safekeeper, and the bare disk`)
    await measureAppends(report, options.copyMegabytes / 2)
    {
      say(`round ${round}: stock Postgres`)
      await using server = await startVanilla()
      const postmaster = server.postmaster()
      const common = { ...options, postmaster, services: new Map<string, number[]>() }
      await measureCommits(server, { ...common, safekeepers: SAFEKEEPERS }, report)
    }
    for (const count of SAFEKEEPERS) {
      say(`round ${round}: Zenith, ${count} safekeeper(s)`)
      await using server = await startZenith(count)
      const { installation } = server
      const services = new Map([
        ['supervisor', [server.supervisor()]],
        ['safekeepers', installation.safekeepers.map(({ pid }) => pid as number)],
        ['pageserver', [installation.pageserver.pid as number]],
      ])
      const postmaster = server.postmaster()
      await measureCommits(
        server,
        { ...options, postmaster, services, safekeepers: [count] },
        report,
      )
    }
  }
}
