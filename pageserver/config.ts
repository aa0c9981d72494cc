/** Settings of the pageserver, in pageserver.toml. Its folder is the data folder. */
import { NodeSettings } from '#libs/auth/auth-settings.ts'
import { DiscoveryConfig } from '#libs/discovery/open-discovery.ts'
import { ObjectStoreConfig } from '#libs/object-store/open-store.ts'
import { type Static, Type } from 'typebox'
import { DiskConfig } from './remote/disk-settings.ts'
import { StorageSettings } from './timeline/storage-settings.ts'

const Port = Type.Integer({ minimum: 0, maximum: 65535 })

export const PageserverConfig = Type.Object(
  {
    id: Type.Integer({ minimum: 1 }),
    listen_pg_host: Type.String({ minLength: 1 }),
    listen_pg_port: Port,
    listen_http_host: Type.String({ minLength: 1 }),
    listen_http_port: Port,
    control_plane_url: Type.String({ minLength: 1 }),
    object_store: ObjectStoreConfig,
    /** How it shows safekeepers who it is; without it, not at all. */
    auth: Type.Optional(NodeSettings),
    /** File with the authorities of safekeepers' certificates; with it they are reached by TLS. */
    safekeeper_ca: Type.Optional(Type.String({ minLength: 1 })),
    /** Let everybody in from other machines too. */
    insecure: Type.Optional(Type.Boolean()),
    /** Install prefix of the patched Postgres, for initdb and redo; default: what set-up built. */
    postgres_prefix: Type.Optional(Type.String({ minLength: 1 })),
    /** How safekeepers tell of new WAL; without it they are asked every few seconds. */
    discovery: Type.Optional(DiscoveryConfig),
    /** Sizes and times that shape layers. */
    storage: Type.Optional(StorageSettings),
    /** How much of the disk layer files may take. */
    disk: Type.Optional(DiskConfig),
    /** Redo processes at most; default: one per processor, at most 4. */
    redo_processes: Type.Optional(Type.Integer({ minimum: 1, maximum: 64 })),
    /** Garbage is collected so often; default: once an hour. */
    gc_period_seconds: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
    /**
     * A lease of an LSN lasts so long, and so long nothing is removed after a tenant was attached;
     * default: 600. The control plane renews leases every 20 seconds.
     */
    lease_seconds: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
  },
  { additionalProperties: false },
)
export type PageserverConfig = Static<typeof PageserverConfig> & { dataDir: string }
