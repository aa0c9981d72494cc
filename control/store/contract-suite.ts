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

    it('checks every record, in whatever order they are named', async () => {
      const store = create()
      const change = (key: string, expectedVersion: number, value: unknown = key) => {
        return { key, expectedVersion, value }
      }
      expect(await store.compareAndSwap(['a', 'b', 'c'].map((key) => change(key, 0)))).toBe(true)
      const right = [change('a', 1, 2), change('b', 1, null), change('c', 1, 2), change('d', 0, 2)]
      for (const wrong of right.keys()) {
        const changes = right.map((one, index) => {
          return index === wrong
            ? { ...one, expectedVersion: one.expectedVersion === 0 ? 1 : 0 }
            : one
        })
        expect(await store.compareAndSwap(changes)).toBe(false)
        expect((await store.range('')).map(({ value }) => value)).toEqual(['a', 'b', 'c'])
      }
      const calls = [right, right.toReversed()].map((changes) => store.compareAndSwap(changes))
      // Either may come first: a store may be asked over several connections.
      expect((await Promise.all(calls)).filter(Boolean)).toEqual([true])
      expect((await store.range('')).map(({ key, version }) => `${key}${version}`)).toEqual([
        'a2',
        'c2',
        'd1',
      ])
      // What was removed begins anew.
      expect(await store.compareAndSwap([change('b', 0)])).toBe(true)
      expect((await store.get('b'))?.version).toBe(1)
      await store.close()
    })

    it('has no two winners over one version, of one record or of several', async () => {
      const store = create()
      const sets = [['a'], ['b'], ['a', 'b'], ['b', 'a'], ['b', 'c'], ['c']]
      const wins = new Map<string, number>()
      for (let round = 0; round < 30; round++) {
        const found = new Map((await store.range('')).map(({ key, version }) => [key, version]))
        const calls = Array.from({ length: 8 }, async (_, index) => {
          const keys = sets[(round * 5 + index * 7) % sets.length] ?? []
          // Some have read long ago.
          const old = (round + index) % 4 === 0 ? 1 : 0
          const changes = keys.map((key) => {
            const expectedVersion = Math.max((found.get(key) ?? 0) - old, 0)
            return { key, expectedVersion, value: round }
          })
          const won = await store.compareAndSwap(changes)
          return won ? keys : []
        })
        for (const key of (await Promise.all(calls)).flat()) {
          wins.set(key, (wins.get(key) ?? 0) + 1)
        }
        for (const { key, version } of await store.range('')) expect(wins.get(key)).toBe(version)
      }
      expect([...wins.values()].every((count) => count > 1 && count <= 30)).toBe(true)
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
