/** GetPage from the pageserver without a compute in between: latency at depth 1, rate when pipelined. */
import { connectPgWire } from '#libs/pgwire/client.ts'
import type { RelationFork } from '#libs/protocol/page-stream.ts'
import { PageStreamClient } from './page-stream-client.ts'
import type { Report } from './report.ts'
import { median } from './report.ts'
import type { ZenithServer } from './subject.ts'

const SINGLE_READS = 2000
const PIPELINED_READS = 30_000
const DEPTH = 32
const PAGES_PER_REQUEST = 16

/** Reads pages of pgbench_accounts: random ones, and runs as a sequential scan asks for. */
export async function measurePages(server: ZenithServer, report: Report): Promise<void> {
  const { installation } = server
  const [row] = await server.query(`
    SELECT (SELECT oid FROM pg_database WHERE datname = current_database())::int AS db,
           pg_relation_filenode('pgbench_accounts')::int AS rel,
           (pg_relation_size('pgbench_accounts') / 8192)::int AS blocks`)
  const { db, rel, blocks } = row as { db: number; rel: number; blocks: number }
  const relation: RelationFork = { spc: 1663, db, rel, fork: 0 }
  const timelineId = installation.computes.at(-1)?.spec.timelineId as string
  const client = await connectPgWire({ port: installation.pageserverNode.pgPort })
  const stream = new PageStreamClient(client)
  await stream.open(`pagestream ${installation.tenantId} ${timelineId}`)
  const anyBlock = (index: number) => (index * 7919) % blocks

  const latenciesMs: number[] = []
  for (let index = 0; index < SINGLE_READS; index++) {
    const start = performance.now()
    stream.ask(relation, anyBlock(index), 1)
    await stream.settled(0)
    latenciesMs.push(performance.now() - start)
  }
  report.add(
    {
      name: 'GetPage, depth 1, p50',
      unit: 'ms',
      better: 'less',
      how: 'one page at a time on one connection, random pages of pgbench_accounts after the load',
      goal: '<= 0.12 ms',
    },
    'zenith',
    median(latenciesMs) as number,
  )
  const rate = async (perRequest: number) => {
    const start = performance.now()
    for (let index = 0; index < PIPELINED_READS / perRequest; index++) {
      const first =
        perRequest === 1 ? anyBlock(index) : (index * perRequest) % (blocks - perRequest)
      stream.ask(relation, first, perRequest)
      await stream.settled(DEPTH - 1)
    }
    await stream.settled(0)
    return PIPELINED_READS / ((performance.now() - start) / 1000)
  }
  report.add(
    {
      name: `GetPage, ${DEPTH} random pages in flight`,
      unit: 'pages/s',
      better: 'more',
      how: 'one connection, single-page requests',
      goal: '>= 25,000',
    },
    'zenith',
    await rate(1),
  )
  report.add(
    {
      name: `GetPage, runs of ${PAGES_PER_REQUEST}`,
      unit: 'pages/s',
      better: 'more',
      how: `one connection, ${DEPTH} requests of ${PAGES_PER_REQUEST} sequential pages in flight`,
      goal: '>= 100,000',
    },
    'zenith',
    await rate(PAGES_PER_REQUEST),
  )
  await client.close()
}
