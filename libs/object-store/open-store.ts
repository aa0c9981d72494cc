/** Object store from a service's settings. */
import { resolve } from 'node:path'
import { type Static, Type } from 'typebox'
import { LocalObjectStore } from './local-store.ts'
import type { ObjectStore } from './object-store.ts'
import { S3Config } from './s3-config.ts'

export const LocalStoreConfig = Type.Object(
  {
    kind: Type.Literal('local_fs'),
    /** Folder of the objects; relative to the data folder. */
    path: Type.String({ minLength: 1 }),
  },
  { additionalProperties: false },
)

export const ObjectStoreConfig = Type.Union([LocalStoreConfig, S3Config])
export type ObjectStoreConfig = Static<typeof ObjectStoreConfig>

/** Connects to nothing yet: a service starts, and goes on trying, while storage is away. */
export async function openObjectStore(
  config: ObjectStoreConfig,
  dataDir: string,
): Promise<ObjectStore> {
  if (config.kind === 'local_fs') return new LocalObjectStore(resolve(dataDir, config.path))
  // Takes a while to load, and most installations do without it.
  const { S3ObjectStore } = await import('./s3-store.ts')
  return new S3ObjectStore(config)
}
