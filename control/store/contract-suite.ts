/** What every store of the control plane must do; each implementation runs it in its tests. */
import { describe, expect, it } from 'vitest'
import type { Store } from './store.ts'

/** `create` gives an empty store each time. */
export function storeContract(name: string, create: () => Store): void {
  describe(`${name} store`, () => {
    it('creates only what is absent', async () => {
      const store = create()
      expect(await store.get('a/1')).toBeNull()
      const create1 = [{ key: 'a/1', expectedVersion: 0, value: { n: 1 } }]
      expect(await store.compareAndSwap(create1)).toBe(true)
      expect(await store.compareAndSwap(create1)).toBe(false)
      expect(await store.get('a/1')).toEqual({ key: 'a/1', value: { n: 1 }, version: 1 })
      await store.close()
    })

    it('changes all records or none', async () => {
      const store = create()
      await store.compareAndSwap([{ key: 'a', expectedVersion: 0, value: 1 }])
      const stale = await store.compareAndSwap([
        { key: 'b', expectedVersion: 0, value: 2 },
        { key: 'a', expectedVersion: 7, value: 2 },
      ])
      expect(stale).toBe(false)
      expect(await store.get('b')).toBeNull()
      const both = await store.compareAndSwap([
        { key: 'b', expectedVersion: 0, value: 2 },
        { key: 'a', expectedVersion: 1, value: null },
      ])
      expect(both).toBe(true)
      expect(await store.get('a')).toBeNull()
      expect((await store.get('b'))?.value).toBe(2)
      await store.close()
    })

    it('lists a prefix in key order and nothing beside it', async () => {
      const store = create()
      for (const key of ['t/2', 't/1', 't/10', 's/9', 'u/0', 't']) {
        await store.compareAndSwap([{ key, expectedVersion: 0, value: key }])
      }
      const keys = (await store.range('t/')).map((entry) => entry.key)
      expect(keys).toEqual(['t/1', 't/10', 't/2'])
      await store.close()
    })

    it('lets one of many concurrent writers win', async () => {
      const store = create()
      const results = await Promise.all(
        Array.from({ length: 20 }, (_, index) =>
          store.compareAndSwap([{ key: 'x', expectedVersion: 0, value: index }]),
        ),
      )
      expect(results.filter(Boolean)).toHaveLength(1)
      await store.close()
    })
  })
}
