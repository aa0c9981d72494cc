import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { storeContract } from './contract-suite.ts'
import { LmdbStore } from './lmdb-store.ts'
import { MemoryStore } from './memory-store.ts'

const folder = mkdtempSync(join(tmpdir(), 'zenith-store-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

let files = 0
storeContract('memory', () => new MemoryStore())
storeContract('lmdb', () => LmdbStore.open(join(folder, String(files++))))

it('finds everything again after it was opened anew', async () => {
  const path = join(folder, 'again')
  const store = LmdbStore.open(path)
  await store.compareAndSwap([{ key: 'k', expectedVersion: 0, value: { deep: [1, 'two'] } }])
  await store.close()
  const again = LmdbStore.open(path)
  expect(await again.get('k')).toEqual({ key: 'k', value: { deep: [1, 'two'] }, version: 1 })
  await again.close()
})
