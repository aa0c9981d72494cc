/** Object store from a service's settings. */
import { resolve } from 'node:path'
import { type Static, Type } from 'typebox'
import { LocalObjectStore } from './local-store.ts'
import type { ObjectStore } from './object-store.ts'

export const ObjectStoreConfig = Type.Object({
  kind: Type.Literal('local_fs'),
  /** Folder of the objects; relative to the data folder. */
  path: Type.String({ minLength: 1 }),
})
export type ObjectStoreConfig = Static<typeof ObjectStoreConfig>

export function openObjectStore(config: ObjectStoreConfig, dataDir: string): ObjectStore {
  return new LocalObjectStore(resolve(dataDir, config.path))
}
