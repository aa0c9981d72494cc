import { expect, test } from 'vitest'
import { DEFAULT_LIMITS } from './storage-context.ts'
import { limitsOf, StorageSettings } from './storage-settings.ts'

test('without settings nothing differs from the defaults', () => {
  expect(limitsOf({})).toEqual({})
})

test('each setting changes limits that exist', () => {
  const names = Object.keys(StorageSettings.properties)
  const limits = limitsOf(Object.fromEntries(names.map((name, index) => [name, index + 1])))
  expect(Object.keys(DEFAULT_LIMITS)).toEqual(expect.arrayContaining(Object.keys(limits)))
  expect(new Set(Object.values(limits)).size).toBe(names.length)
  expect(limits.l1LayerBytes).toBe(limits.imageLayerBytes)
})
