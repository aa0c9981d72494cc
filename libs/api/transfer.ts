/**
 * Export and import in the control plane's HTTP API: one table of routes, part of `controlRoutes`.
 * An import is begun by one request and asked after by others, since it may take hours.
 */
import { routes } from '#libs/http/route.ts'
import { type Static, Type } from 'typebox'
import { transferPaths } from './transfer-paths.ts'

const IdText = Type.String({ pattern: '^[0-9a-f]{32}$' })
const LsnText = Type.String({ pattern: '^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$' })
const Port = Type.Integer({ minimum: 1, maximum: 65535 })
const NameParams = Type.Object({ tenantId: IdText, name: Type.String() })

/** Where to fetch a branch's data folder: from the page service, with the command `export`. */
export const ExportPlace = Type.Object({
  tenantId: IdText,
  timelineId: IdText,
  branch: Type.String(),
  lsn: LsnText,
  host: Type.String(),
  pgPort: Port,
  /** About how many bytes will come: all relations at the end of the branch. */
  sizeBytes: Type.Integer(),
})
export type ExportPlace = Static<typeof ExportPlace>

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
})
