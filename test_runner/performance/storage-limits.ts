/** What the machine itself gives, beside the figures of the storage engine: disk, loopback, memory. */
import { randomFillSync } from 'node:crypto'
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { zstdCompressSync } from 'node:zlib'
import { PageLoad } from './page-load.ts'
import type { Report } from './report.ts'
import { timed } from './stopwatch.ts'

const MIB = 1024 * 1024
const PAGE_SIZE = 8192
const LOOPBACK_PAGES = 100_000
const REQUEST_BYTES = 64

export async function measureLimits(report: Report): Promise<void> {
  const add = (name: string, unit: string, how: string, figure: number) =>
    report.add({ name, unit, better: 'more', how }, 'zenith', figure)
  add('limit: disk write', 'MB/s', '512 MiB in writes of 1 MiB, then fsync', diskRate())
  const { wall, thread } = await loopbackRate()
  const how = 'a bare TCP server of one thread answers requests of 64 bytes, 64 in flight'
  add('limit: loopback, replies of 8 KiB', 'replies/s', how, wall)
  add('limit: loopback, replies of 8 KiB, thread', 'replies/cpu s', how, thread)
  add('limit: memory copy', 'MB/s', '64 MiB to 64 MiB, one thread', await copyRate())
  add(
    'limit: zstd',
    'MB/s',
    'level 1, pieces of 64 KiB of half random bytes, one thread',
    packRate(),
  )
}

function diskRate(): number {
  const dir = mkdtempSync(join(tmpdir(), 'zenith-disk-'))
  try {
    const bytes = randomFillSync(Buffer.alloc(MIB))
    const file = openSync(join(dir, 'file'), 'w')
    const start = performance.now()
    for (let written = 0; written < 512; written++) writeSync(file, bytes)
    fsyncSync(file)
    const seconds = (performance.now() - start) / 1000
    closeSync(file)
    return (512 * MIB) / 1e6 / seconds
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

async function copyRate(): Promise<number> {
  const from = randomFillSync(Buffer.alloc(64 * MIB))
  const to = Buffer.alloc(64 * MIB)
  const { threadSeconds } = await timed(() => {
    for (let round = 0; round < 10; round++) from.copy(to)
  })
  return (640 * MIB) / 1e6 / threadSeconds
}

function packRate(): number {
  const bytes = randomFillSync(Buffer.alloc(65_536))
  for (let at = 0; at < bytes.length; at += 64) bytes.fill(0x20, at, at + 32)
  const start = process.threadCpuUsage()
  for (let round = 0; round < 500; round++) zstdCompressSync(bytes, { params: { 100: 1 } })
  const { user, system } = process.threadCpuUsage(start)
  return (500 * bytes.length) / (user + system)
}

async function loopbackRate(): Promise<{ wall: number; thread: number }> {
  const reply = Buffer.alloc(PAGE_SIZE)
  const server = createServer({ noDelay: true }, (socket) => {
    let pending = 0
    socket.on('error', () => socket.destroy())
    socket.on('data', (chunk) => {
      pending += chunk.length
      socket.cork()
      for (; pending >= REQUEST_BYTES; pending -= REQUEST_BYTES) socket.write(reply)
      socket.uncork()
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const port = typeof address === 'object' && address ? address.port : 0
  const load = new PageLoad()
  try {
    const shape = { pages: LOOPBACK_PAGES, depth: 64, perRequest: 1, bare: true }
    await load.run({ ...shape, pages: 10_000, port })
    const used = await timed(() => load.run({ ...shape, port }))
    return {
      wall: LOOPBACK_PAGES / used.seconds,
      thread: LOOPBACK_PAGES / used.threadSeconds,
    }
  } finally {
    await load.close()
    server.close()
  }
}
