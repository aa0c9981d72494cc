/** Pageservers, safekeepers and other sources of WAL, as the control plane tells of them. */
import { type Static, Type } from 'typebox'
import { Port } from './schemas.ts'
import { SslMode } from './transfer.ts'

/** A pageserver or safekeeper, as computes and other services reach it. */
export const NodeInfo = Type.Object({
  id: Type.Integer({ minimum: 1 }),
  host: Type.String({ minLength: 1 }),
  pgPort: Port,
  httpPort: Port,
})
export type NodeInfo = Static<typeof NodeInfo>

/** A stock Postgres whose WAL a timeline follows, for imports. */
export const PostgresSource = Type.Object({
  kind: Type.Literal('postgres'),
  /** Any number that no other source of the timeline has. */
  id: Type.Integer({ minimum: 1 }),
  host: Type.String({ minLength: 1 }),
  pgPort: Port,
  /** Default: `zenith_admin`. It needs the REPLICATION attribute. */
  user: Type.Optional(Type.String({ minLength: 1 })),
  password: Type.Optional(Type.String()),
  /** Default: `disable`. */
  sslMode: Type.Optional(SslMode),
  sslRootCert: Type.Optional(Type.String()),
  /** Physical replication slot that keeps WAL for us; it must exist. */
  slot: Type.Optional(Type.String({ pattern: '^[a-z0-9_]{1,63}$' })),
})
export type PostgresSource = Static<typeof PostgresSource>

/** Where a pageserver gets a timeline's WAL from. */
export const WalSource = Type.Union([NodeInfo, PostgresSource])
export type WalSource = Static<typeof WalSource>

export const NodeAddress = Type.Object({
  host: Type.String({ minLength: 1 }),
  pgPort: Port,
  httpPort: Port,
})
