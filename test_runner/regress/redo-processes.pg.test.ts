/**
 * Goal: the pool loses no request whatever happens to its processes, and the processes have no
 * rights. Pages without records are enough for that: they come back as they went in.
 */
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { createLogger } from '#libs/log.ts'
import { runAs } from '#libs/system-user.ts'
import { RedoPool, type RedoPoolOptions } from '../../pageserver/redo/redo-pool.ts'

const log = createLogger('redo-test')
log.level = 'fatal'
const pools: RedoPool[] = []
const workDirs: string[] = []

function newPool(options: Partial<RedoPoolOptions> = {}): RedoPool {
  const workDir = join(tmpdir(), `zenith-redo-${randomBytes(6).toString('hex')}`)
  const pool = new RedoPool({ workDir, log, maxProcesses: 2, ...options })
  pools.push(pool)
  workDirs.push(workDir)
  return pool
}

afterEach(async () => {
  await Promise.all(pools.splice(0).map((pool) => pool.close()))
  for (const workDir of workDirs.splice(0)) expect(existsSync(workDir)).toBe(false)
})

function tag(blk: number) {
  return { spc: 1663, db: 5, rel: 16384, fork: 0, blk }
}

function pageOf(value: number): Buffer {
  return Buffer.alloc(8192, value)
}

async function waitFor(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 60_000
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('waited for too long')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

async function echo(pool: RedoPool, count: number): Promise<void> {
  const pages = Array.from({ length: count }, (_, index) => pageOf(index % 251))
  const results = await Promise.all(
    pages.map((page, index) => pool.apply(tag(index), page, [], [])),
  )
  expect(results.every((result, index) => result.equals(pages[index] as Buffer))).toBe(true)
}

test('processes start when there is work, more when there is much, and end when idle', async () => {
  const pool = newPool({ idleTimeoutMs: 100 })
  expect(pool.pids).toEqual([])
  await pool.warm()
  expect(pool.pids).toHaveLength(1)
  await echo(pool, 3)
  expect(pool.pids).toHaveLength(1)
  await echo(pool, 500)
  expect(pool.stats.spawned).toBe(2)
  await waitFor(() => pool.pids.length === 0)
  await echo(pool, 3)
  expect(pool.pids).toHaveLength(1)
  expect(pool.stats.died).toBe(0)
})

test('a page that no process saw before is zeros', async () => {
  const page = await newPool().apply(tag(1), null, [], [])
  expect(page.equals(Buffer.alloc(8192))).toBe(true)
})

test('requests survive the death of their process', async () => {
  const pool = newPool({ maxProcesses: 1 })
  for (let round = 0; round < 5; round++) {
    await pool.warm()
    const pid = pool.pids[0] as number
    const work = echo(pool, 300)
    setImmediate(() => process.kill(pid, 'SIGKILL'))
    await work
    // It may have done all of its work before it died.
    await waitFor(() => pool.stats.died === round + 1)
  }
  expect(pool.stats.failed).toBe(0)
  expect(pool.stats.died).toBe(5)
})

test('a request that kills every process fails alone', async () => {
  const pool = newPool({ maxProcesses: 1 })
  const good = echo(pool, 100)
  const bad = pool.apply(tag(7), null, [4096], [Buffer.alloc(40, 1)])
  const after = echo(pool, 100)
  await expect(bad).rejects.toMatchObject({
    code: 'corrupt',
    message: expect.stringMatching(/block 7 of relation 1663\/5\/16384 fork 0 \(1 record, 0\/1000/),
  })
  await Promise.all([good, after])
  expect(pool.stats).toMatchObject({ applied: 200, failed: 1 })
})

test('a process that hangs is killed, and its requests are done by another', async () => {
  const pool = newPool({ maxProcesses: 1, requestTimeoutMs: 2000 })
  await pool.warm()
  const pid = pool.pids[0] as number
  process.kill(pid, 'SIGSTOP')
  await echo(pool, 10)
  expect(pool.stats).toMatchObject({ died: 1, failed: 0 })
})

test('an installation without the redo library is reported, not retried forever', async () => {
  const pool = newPool({ library: 'zenith_no_such_library' })
  await expect(pool.apply(tag(1), null, [], [])).rejects.toMatchObject({
    code: 'unavailable',
    message: expect.stringContaining('zenith_no_such_library'),
  })
  await expect(pool.warm()).rejects.toMatchObject({ code: 'unavailable' })
})

test('closing fails what is left and later requests', async () => {
  const pool = newPool()
  const work = Promise.allSettled([pool.apply(tag(1), null, [], [])])
  await pool.close()
  expect((await work)[0]).toMatchObject({ status: 'rejected', reason: { code: 'unavailable' } })
  await expect(pool.apply(tag(1), null, [], [])).rejects.toMatchObject({ code: 'unavailable' })
})

test('a process has three socket pairs, no rights and no way to get any', async () => {
  const pool = newPool()
  await pool.warm()
  const pid = pool.pids[0] as number
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  expect(status).toMatch(/^NoNewPrivs:\t1$/m)
  expect(status).toMatch(/^Seccomp:\t2$/m)
  expect(status).toMatch(/^CapEff:\t0+$/m)
  const user = runAs()
  if (user !== null) expect(status).toMatch(new RegExp(`^Uid:\t${user.uid}\t${user.uid}\t`, 'm'))
  const links = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`))
  expect(links).toHaveLength(3)
  for (const link of links) expect(link).toMatch(/^socket:/)
})
