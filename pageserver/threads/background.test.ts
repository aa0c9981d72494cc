import { readdirSync, readFileSync } from 'node:fs'
import { getPriority } from 'node:os'
import { Worker } from 'node:worker_threads'
import { expect, onTestFinished, test } from 'vitest'
import { COMPACTION_NICENESS, FLUSH_NICENESS } from './background.ts'

const BACKGROUND = new URL('./background.ts', import.meta.url).href

/** Runs in a thread: says its niceness, that of a process it starts, and its number. */
const SCRIPT = `
  const { parentPort } = await import('node:worker_threads')
  const { execFileSync } = await import('node:child_process')
  const { readlinkSync } = await import('node:fs')
  const { giveWay } = await import('${BACKGROUND}')
  giveWay(10)
  const child = Number(execFileSync('nice').toString())
  parentPort.postMessage({ child, path: readlinkSync('/proc/thread-self') })
  await new Promise((resolve) => parentPort.once('message', resolve))
`

/** The 19th field of proc(5) "stat", behind the name in brackets. */
function nicenessOf(thread: string): number {
  const stat = readFileSync(`/proc/${thread}/stat`, 'utf8')
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16])
}

function threadsOf(niceness: number): string[] {
  return readdirSync('/proc/self/task').filter((thread) => {
    try {
      return nicenessOf(`self/task/${thread}`) === niceness
    } catch {
      // It has ended meanwhile.
      return false
    }
  })
}

test.each([
  ['flush-worker.ts', FLUSH_NICENESS],
  ['../compaction/worker.ts', COMPACTION_NICENESS],
])('%s gives way', async (script, niceness) => {
  const before = new Set(threadsOf(niceness))
  const workerData = { postgresPrefix: '', redoDir: '/nonexistent', redoProcesses: 1 }
  const worker = new Worker(new URL(script, import.meta.url), { workerData })
  onTestFinished(async () => void (await worker.terminate()))
  await expect.poll(() => threadsOf(niceness).filter((one) => !before.has(one))).not.toEqual([])
})

test('a thread gives way, with what it starts, and the others do not', async () => {
  const before = getPriority()
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(SCRIPT)}`))
  const { child, path } = await new Promise<{ child: number; path: string }>((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  const niceness = Math.max(before, 10)
  expect({ thread: nicenessOf(path), child }).toEqual({ thread: niceness, child: niceness })
  expect(getPriority()).toBe(before)
  worker.postMessage(null)
})
