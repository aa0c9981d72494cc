import { fsyncSync, readlinkSync } from 'node:fs'
import { type FileHandle, mkdir, mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test, vi } from 'vitest'
import { objectStoreContract } from './contract-suite.ts'
import { LocalObjectStore } from './local-store.ts'

objectStoreContract('local folder', async (scratch) => {
  const root = join(scratch, 'objects')
  await mkdir(join(root, 't'), { recursive: true })
  // Left by a put that a crash cut short: never listed.
  await writeFile(join(root, 't', 'd.tmp~1-1'), 'half')
  if ((await readdir(join(root, 't'))).length !== 1) throw new Error('the set-up is wrong')
  return new LocalObjectStore(root)
})

/** The folders that are synced from now on, from `root` on: what a power cut leaves the names of. */
async function watchSyncs(root: string): Promise<Set<string>> {
  const synced = new Set<string>()
  const probe = await open(root, 'r')
  const prototype = Object.getPrototypeOf(probe) as FileHandle
  await probe.close()
  const spy = vi.spyOn(prototype, 'sync').mockImplementation(function (this: FileHandle) {
    fsyncSync(this.fd)
    synced.add(readlinkSync(`/proc/self/fd/${this.fd}`).slice(root.length))
    return Promise.resolve()
  })
  onTestFinished(() => spy.mockRestore())
  return synced
}

test('the names of an object and of all folders above are durable before it counts', async () => {
  const root = await mkdtemp(join(tmpdir(), 'local-store-'))
  onTestFinished(() => rm(root, { recursive: true, force: true }))
  // Made by another process, which has synced nothing yet.
  await mkdir(join(root, 'a', 'b'), { recursive: true })
  const store = new LocalObjectStore(root)
  const synced = await watchSyncs(root)

  await store.put('a/b/c/one', Buffer.from('1'))
  expect([...synced].sort()).toEqual(['', '/a', '/a/b', '/a/b/c'])
  synced.clear()
  await store.put('a/b/c/two', Buffer.from('2'))
  expect([...synced]).toEqual(['/a/b/c'])
  synced.clear()
  await store.put('a/b/d/e/three', Buffer.from('3'))
  expect([...synced].sort()).toEqual(['/a/b', '/a/b/d', '/a/b/d/e'])
  synced.clear()
  const source = join(root, 'source')
  await writeFile(source, '4')
  await store.putFile('a/f/four', source)
  expect([...synced].sort()).toEqual(['/a', '/a/f'])

  await rm(join(root, 'a'), { recursive: true })
  synced.clear()
  await store.put('a/b/g/five', Buffer.from('5'))
  expect([...synced].sort()).toEqual(expect.arrayContaining(['', '/a', '/a/b', '/a/b/g']))
  await rm(join(root, 'a'), { recursive: true })
  synced.clear()
  await store.put('a/b/g/five', Buffer.from('5'))
  expect([...synced].sort()).toEqual(['', '/a', '/a/b', '/a/b/g'])
})
