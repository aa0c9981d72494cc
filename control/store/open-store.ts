/** The control plane's store from its settings. */
import { type Static, Type } from 'typebox'
import { EtcdSettings } from '#libs/etcd/etcd-client.ts'
import { EtcdStore } from './etcd-store.ts'
import { LmdbStore } from './lmdb-store.ts'
import type { Store } from './store.ts'

export const StoreConfig = Type.Union([
  Type.Object({ kind: Type.Literal('lmdb') }, { additionalProperties: false }),
  EtcdSettings,
])
export type StoreConfig = Static<typeof StoreConfig>

/** Default: a file in the data folder. */
export function openStore(config: StoreConfig | undefined, dataDir: string): Store {
  return config?.kind === 'etcd' ? new EtcdStore(config) : LmdbStore.open(dataDir)
}
