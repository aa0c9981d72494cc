/**
 * Export and import in the control plane's HTTP API: one table of routes, part of `controlRoutes`.
 * An import is begun by one request and asked after by others, since it may take hours.
 */
import { routes } from '#libs/http/route.ts'
import { type Static, Type } from 'typebox'
import { importJobPaths, transferPaths } from './transfer-paths.ts'
import {
  IdText,
  LsnText,
  NameParams,
  Nullable,
  Port,
  TenantParams,
  TimelineShardParams,
} from './schemas.ts'

export const SslMode = Type.Union([
  Type.Literal('disable'),
  Type.Literal('prefer'),
  Type.Literal('require'),
  Type.Literal('verify-ca'),
  Type.Literal('verify-full'),
])

/** A stock Postgres, as its clients reach it. */
export const StockServer = Type.Object({
  host: Type.String({ minLength: 1 }),
  pgPort: Port,
  user: Type.String({ minLength: 1 }),
  /** Kept in the control plane's records while the server is followed; never shown. */
  password: Type.Optional(Type.String()),
  sslMode: SslMode,
  /** Certificates in PEM that vouch for the server. */
  sslRootCert: Type.Optional(Type.String()),
})
export type StockServer = Static<typeof StockServer>

/** A branch that follows a stock primary: whom, and how far behind. */
export const FollowInfo = Type.Object({
  source: Type.String(),
  slot: Type.String(),
  state: Type.String(),
  /** The end of WAL that the server last told; null while there is no connection. */
  sourceLsn: Nullable(LsnText),
  lagBytes: Nullable(Type.Integer()),
  lastError: Nullable(Type.String()),
})
export type FollowInfo = Static<typeof FollowInfo>

/** Where to fetch a branch's data folder: from the page service, with the command `export`. */
export const ExportPlace = Type.Object({
  tenantId: IdText,
  timelineId: IdText,
  branch: Type.String(),
  lsn: LsnText,
  /** Of a sharded tenant shard 0, which puts the folder together. */
  host: Type.String(),
  pgPort: Port,
  /** Of a sharded tenant: where all of its shards are, in their order. */
  shards: Type.Optional(Type.Array(Type.Object({ host: Type.String(), pgPort: Port }))),
  /** About how many bytes will come: all relations at the end of the branch. */
  sizeBytes: Type.Integer(),
})
export type ExportPlace = Static<typeof ExportPlace>

/** What an import takes in. Paths are absolute, of the pageserver's machine. */
export const ImportSource = Type.Union([
  Type.Object({
    kind: Type.Literal('backup'),
    /** A folder of pg_basebackup (plain, or with base.tar), a base.tar, or a stopped data folder. */
    path: Type.String({ pattern: '^/' }),
    /** A folder with more WAL, or pg_wal.tar. */
    wal: Type.Optional(Type.String({ pattern: '^/' })),
  }),
  Type.Object({
    kind: Type.Literal('postgres'),
    server: StockServer,
    /** Go on following it once the import is done. */
    follow: Type.Boolean(),
  }),
])
export type ImportSource = Static<typeof ImportSource>

export const ImportPhase = Type.Union([
  Type.Literal('waiting'),
  Type.Literal('fetching'),
  Type.Literal('checking'),
  Type.Literal('copying'),
  Type.Literal('replaying'),
  Type.Literal('finishing'),
])
export type ImportPhase = Static<typeof ImportPhase>

const Progress = {
  phase: ImportPhase,
  doneBytes: Type.Integer(),
  /** Null where nobody knows. */
  totalBytes: Nullable(Type.Integer()),
}

/** One import as a pageserver knows it; it is forgotten when the pageserver restarts. */
export const ImportJob = Type.Object({
  state: Type.Union([Type.Literal('running'), Type.Literal('done'), Type.Literal('failed')]),
  ...Progress,
  error: Nullable(
    Type.Object({ code: Type.String(), message: Type.String(), hint: Type.String() }),
  ),
  /**
   * Of a shard, once it knows: where its part can end. It waits there until it is told where all of
   * them end (`endLsn` of the request).
   */
  walEndLsn: Nullable(LsnText),
  /** When it is done: the first LSN that can be read, and the end. */
  startLsn: Nullable(LsnText),
  endLsn: Nullable(LsnText),
  systemId: Nullable(Type.String()),
  pgVersion: Nullable(Type.Integer()),
})
export type ImportJob = Static<typeof ImportJob>

/** One import as its owner sees it. */
export const ImportInfo = Type.Object({
  name: Type.String(),
  timelineId: IdText,
  state: Type.Union([
    Type.Literal('running'),
    Type.Literal('done'),
    Type.Literal('failed'),
    Type.Literal('following'),
    Type.Literal('stopped'),
  ]),
  ...Progress,
  error: Nullable(
    Type.Object({ code: Type.String(), message: Type.String(), hint: Type.String() }),
  ),
  startLsn: Nullable(LsnText),
  endLsn: Nullable(LsnText),
  following: Nullable(FollowInfo),
})
export type ImportInfo = Static<typeof ImportInfo>

export const transferRoutes = routes({
  exportBranch: {
    ...transferPaths.exportBranch,
    summary: 'Where the data folder of a branch, as of an LSN or a moment, can be fetched',
    params: NameParams,
    body: Type.Object({
      /** Default: the end of the branch as it is now. */
      lsn: Type.Optional(LsnText),
      /** Instead of an LSN: a moment, as ISO 8601 or psql write it. */
      at: Type.Optional(Type.String()),
    }),
    response: ExportPlace,
  },
  startImport: {
    ...transferPaths.startImport,
    summary: 'Begin to import a cluster as a new branch; it goes on by itself',
    params: TenantParams,
    body: Type.Object({ name: Type.String(), source: ImportSource }),
    response: ImportInfo,
  },
  getImport: {
    ...transferPaths.getImport,
    summary: 'How far the import of a branch is, or how far behind the branch that follows',
    params: NameParams,
    response: ImportInfo,
  },
  stopImport: {
    ...transferPaths.stopImport,
    summary: 'Give an import up, or end the following of a primary and drop its slot',
    params: NameParams,
    body: Type.Object({
      /** Even if the slot cannot be dropped, since the server does not answer. */
      force: Type.Optional(Type.Boolean()),
    }),
    response: ImportInfo,
  },
})

/** The pageserver's part, in `pageserverRoutes`. */
export const importJobRoutes = routes({
  startImportJob: {
    ...importJobPaths.startImportJob,
    summary: 'Begin, or join, the import of a cluster as this timeline',
    params: TimelineShardParams,
    body: Type.Object({
      source: ImportSource,
      slot: Type.String(),
      /** Of a shard: where all shards end. Without it the shard waits before it takes in WAL. */
      endLsn: Type.Optional(LsnText),
    }),
    response: ImportJob,
  },
  getImportJob: {
    ...importJobPaths.getImportJob,
    summary: 'How far the import of this timeline is',
    params: TimelineShardParams,
    response: ImportJob,
  },
  abortImportJob: {
    ...importJobPaths.abortImportJob,
    summary: 'Give the import of this timeline up; nothing is left of it',
    params: TimelineShardParams,
    body: Type.Object({
      /** Even if it was done here; for one that some other shard could not do. */
      remove: Type.Optional(Type.Boolean()),
    }),
    response: Type.Object({}),
  },
  finishFollowing: {
    ...importJobPaths.finishFollowing,
    summary: 'The timeline gets no more WAL from its stock server; its own begins at its end',
    params: TimelineShardParams,
    body: Type.Object({}),
    response: Type.Object({ endLsn: LsnText }),
  },
  catchUpFollowing: {
    ...importJobPaths.catchUpFollowing,
    summary: 'Take in no more WAL of the stock server, or just that up to where other shards are',
    params: TimelineShardParams,
    body: Type.Object({ server: StockServer, endLsn: Type.Optional(LsnText) }),
    /** Where the timeline stands. */
    response: Type.Object({ endLsn: LsnText }),
  },
  dropSourceSlot: {
    ...importJobPaths.dropSourceSlot,
    summary: 'Drop the replication slot by which a stock server keeps WAL for us',
    params: TimelineShardParams,
    body: Type.Object({ server: StockServer, slot: Type.String() }),
    response: Type.Object({}),
  },
})
