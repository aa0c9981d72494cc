/** What every object store must do, as tests; each implementation's test file calls it. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { ObjectStore } from './object-store.ts'

export function objectStoreContract(
  kind: string,
  open: (scratch: string) => Promise<ObjectStore>,
): void {
  describe(`object store contract: ${kind}`, () => {
    let scratch = ''
    let store: ObjectStore

    beforeEach(async () => {
      scratch = await mkdtemp(join(tmpdir(), 'object-store-'))
      store = await open(scratch)
    })
    afterEach(async () => {
      await rm(scratch, { recursive: true, force: true })
    })

    test('gives back what was put, whole and in ranges', async () => {
      await store.put('a/b/one', Buffer.from('hello world'))
      expect((await store.get('a/b/one')).toString()).toBe('hello world')
      expect((await store.getRange('a/b/one', 6, 5)).toString()).toBe('world')
      expect((await store.getRange('a/b/one', 11, 0)).length).toBe(0)
      expect(await store.size('a/b/one')).toBe(11)
    })

    test('refuses a range outside the object', async () => {
      await store.put('x', Buffer.from('abc'))
      await expect(store.getRange('x', 2, 2)).rejects.toMatchObject({ code: 'out_of_range' })
    })

    test('never overwrites', async () => {
      await store.put('x', Buffer.from('first'))
      await expect(store.put('x', Buffer.from('second'))).rejects.toMatchObject({
        code: 'already_exists',
      })
      const path = join(scratch, 'third')
      await writeFile(path, 'third')
      await expect(store.putFile('x', path)).rejects.toMatchObject({ code: 'already_exists' })
      expect((await store.get('x')).toString()).toBe('first')
    })

    test('one of many writers of a name wins', async () => {
      const bodies = Array.from({ length: 8 }, (_, index) => Buffer.from(`writer ${index}`))
      const done = await Promise.allSettled(bodies.map((body) => store.put('race', body)))
      const winners = done.flatMap((result, index) => (result.status === 'fulfilled' ? index : []))
      expect(winners).toHaveLength(1)
      expect((await store.get('race')).toString()).toBe(`writer ${winners[0]}`)
    })

    test('files go in and out', async () => {
      const path = join(scratch, 'local-file')
      await writeFile(path, 'content')
      await store.putFile('f/g', path)
      await rm(path)
      expect((await store.get('f/g')).toString()).toBe('content')
      await store.getFile('f/g', join(scratch, 'back'))
      expect((await readFile(join(scratch, 'back'))).toString()).toBe('content')
    })

    test('missing objects are named', async () => {
      await expect(store.get('no/such')).rejects.toMatchObject({
        code: 'not_found',
        message: expect.stringContaining('no/such'),
      })
      await expect(store.getRange('no/such', 0, 1)).rejects.toMatchObject({ code: 'not_found' })
      await expect(store.getFile('no/such', join(scratch, 'y'))).rejects.toMatchObject({
        code: 'not_found',
      })
      expect(await store.size('no/such')).toBeNull()
      await store.delete('no/such')
    })

    test('lists below a folder, deep or one level', async () => {
      for (const name of ['t/1/b', 't/1/a', 't/2/c', 't/d', 'u/e']) {
        await store.put(name, Buffer.from(name))
      }
      const deep = await store.list('t')
      expect(deep.objects.map((entry) => entry.name)).toEqual(['t/1/a', 't/1/b', 't/2/c', 't/d'])
      expect(deep.objects[3]?.sizeBytes).toBe(3)
      const flat = await store.list('t', { delimited: true })
      expect(flat.objects.map((entry) => entry.name)).toEqual(['t/d'])
      expect(flat.folders).toEqual(['1', '2'])
      expect(await store.list('nothing')).toEqual({ objects: [], folders: [] })
    })

    test('a deleted object is gone and may be put anew', async () => {
      await store.put('x', Buffer.from('1'))
      await store.delete('x')
      expect(await store.size('x')).toBeNull()
      await store.put('x', Buffer.from('2'))
      expect((await store.get('x')).toString()).toBe('2')
    })

    test('deletes many, present or not', async () => {
      for (const name of ['a/1', 'a/2', 'b/3']) await store.put(name, Buffer.from(name))
      await store.deleteAll(['a/1', 'a/none', 'b/3', 'no/such'])
      expect((await store.list('')).objects.map(({ name }) => name)).toEqual(['a/2'])
      await store.deleteAll([])
    })

    test('refuses names that leave the store', async () => {
      for (const name of ['../x', 'a/../b', '', '/etc', 'a//b', '.hidden', 'a b']) {
        await expect(store.put(name, Buffer.from('x'))).rejects.toMatchObject({
          code: 'invalid_argument',
        })
      }
    })
  })
}
