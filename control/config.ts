/** Settings of the control plane (`control.toml`; its folder holds the store). */
import { SignerSettings } from '#libs/auth/auth-settings.ts'
import { type Static, Type } from 'typebox'
import { StoreConfig } from './store/open-store.ts'

const Port = Type.Integer({ minimum: 0, maximum: 65535 })

export const ControlConfig = Type.Object(
  {
    id: Type.Integer({ minimum: 1 }),
    listen_http_host: Type.String(),
    listen_http_port: Port,
    /** First Postgres port to try for an endpoint whose owner named none. */
    first_endpoint_port: Type.Optional(Port),
    /** Tokens are given out; without it there are none. */
    auth: Type.Optional(SignerSettings),
    /**
     * Seconds after which a silent pageserver is taken for lost, and others take over what it has;
     * default 30, 0 = never by itself.
     */
    pageserver_lost_after: Type.Optional(Type.Integer({ minimum: 0 })),
    /** Seconds that it must be well again before its tenants go back to it; default 20. */
    pageserver_home_after: Type.Optional(Type.Integer({ minimum: 0 })),
    /**
     * A shard with more bytes of the tenant's largest branch is split by itself, as long as there are
     * more pageservers than shards; default 64 GiB, 0 = never. Tenants may say otherwise.
     */
    split_size_bytes: Type.Optional(Type.Integer({ minimum: 0 })),
    /** How often it is looked how large tenants are; default: every 20 s. */
    split_check_seconds: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
    /** File with the authorities of safekeepers' certificates; with it they are reached by TLS. */
    safekeeper_ca: Type.Optional(Type.String({ minLength: 1 })),
    /** How often leases of endpoints are renewed; default: every 20 s. */
    lease_renewal_seconds: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
    /** Let everybody in from other machines too. */
    insecure: Type.Optional(Type.Boolean()),
    /** Where records are kept; default: a file in the data folder. */
    store: Type.Optional(StoreConfig),
    // The control plane speaks HTTP alone; the keys are common to all services.
    listen_pg_host: Type.Optional(Type.String()),
    listen_pg_port: Type.Optional(Port),
  },
  { additionalProperties: false },
)
export type ControlConfig = Static<typeof ControlConfig>
