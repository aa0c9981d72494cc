/** A page server whose disk fails after its first flush. Tells each LSN that is durable. */
import { writeFileSync } from 'node:fs'
import { FlushThread } from '../flush-thread.ts'
import { flushPage, openTenants, START_LSN, TENANT, TIMELINE } from './failing-disk.ts'

// Stands for the listeners of a page server: its threads alone do not keep a process.
setInterval(() => undefined, 60_000)

const [folder = ''] = process.argv.slice(2)
const files = new FlushThread(new URL('./failing-sync-worker.ts', import.meta.url))
const tenants = await openTenants(folder, 1, files)
const facts = { startLsn: START_LSN, systemId: '1', pgVersion: 170011 }
const timeline = await tenants.createTimeline(TENANT, TIMELINE, facts, async () => {})

await flushPage(timeline, 0, START_LSN + 0x100)
process.stdout.write(`${timeline.diskConsistentLsn}\n`)
writeFileSync(process.env['FAILING_DISK'] as string, '')
await flushPage(timeline, 1, START_LSN + 0x200)
process.stdout.write(`${timeline.diskConsistentLsn}\n`)
process.exit(0)
