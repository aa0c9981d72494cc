import { type Static, Type } from 'typebox'
import { TlsSettings, VerifierSettings } from '#libs/auth/auth-settings.ts'
import { DiscoveryConfig } from '#libs/discovery/open-discovery.ts'
import { ObjectStoreConfig } from '#libs/object-store/open-store.ts'
import { OffloadConfig } from './offload/offload-service.ts'

/** Settings of a safekeeper, from `safekeeper.toml` in its data folder. */
export const SafekeeperConfig = Type.Object(
  {
    id: Type.Integer({ minimum: 1 }),
    name: Type.String({ minLength: 1 }),
    listen_pg_host: Type.String({ default: '127.0.0.1' }),
    listen_pg_port: Type.Integer({ minimum: 0, maximum: 65535 }),
    listen_http_host: Type.String({ default: '127.0.0.1' }),
    listen_http_port: Type.Integer({ minimum: 0, maximum: 65535 }),
    /** Where the control plane listens; without it this safekeeper knows nobody else. */
    control_plane_url: Type.Optional(Type.String({ minLength: 1 })),
    /** Where WAL is copied to; without it everything stays here. */
    object_store: Type.Optional(ObjectStoreConfig),
    /** When WAL goes to object storage, and when it leaves this disk. */
    offload: Type.Optional(OffloadConfig),
    /** Tokens are asked for and checked; without it everybody is let in. */
    auth: Type.Optional(VerifierSettings),
    /** Default off. */
    tls: Type.Optional(TlsSettings),
    /** Let everybody in from other machines too. */
    insecure: Type.Optional(Type.Boolean()),
    /** WAL of one timeline on this disk; beyond it appends are refused. Default: no limit. */
    max_timeline_wal_bytes: Type.Optional(Type.Integer({ minimum: 33554432 })),
    /** WAL of all timelines on this disk. Default: no limit. */
    max_wal_bytes: Type.Optional(Type.Integer({ minimum: 33554432 })),
    /** Appends are refused while the disk has less free than this. Default: 64 MiB. */
    min_free_bytes: Type.Optional(Type.Integer({ minimum: 0 })),
    /** How it hears of other safekeepers; without it it does not, and catches up by computes only. */
    discovery: Type.Optional(DiscoveryConfig),
  },
  { additionalProperties: false },
)
export type SafekeeperConfig = Static<typeof SafekeeperConfig>
