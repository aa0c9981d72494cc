/** The queries that the page service port answers. */
import { ZenithError } from '#libs/errors.ts'
import { parseTimelineId, type TenantId, type TimelineId } from '#libs/ids.ts'
import { type Lsn, parseLsn } from '#libs/lsn.ts'
import { parseTenantShardId } from '#libs/sharding.ts'

interface Target {
  tenantId: TenantId
  timelineId: TimelineId
}

/**
 * Which data folder a compute gets: one that writes to the branch, one that is read-only as of the
 * LSN, or one that follows the branch (`docs/protocols/base-backup.md`).
 */
export type ComputeKind = 'primary' | 'static' | 'standby'

export interface BackupCommand extends Target {
  kind: 'basebackup'
  compute: ComputeKind
  lsn: Lsn | null
  sparse: boolean
}

/** A data folder for stock Postgres; `checksums` null: as the cluster was made. */
export interface ExportCommand extends Target {
  kind: 'export'
  lsn: Lsn | null
  checksums: boolean | null
}

export type PageCommand =
  | ({ kind: 'pagestream' } & Target)
  | BackupCommand
  | ({ kind: 'fullbackup'; lsn: Lsn | null; sparse: boolean } & Target)
  | ExportCommand

const COMPUTE_KINDS: readonly string[] = ['primary', 'static', 'standby'] satisfies ComputeKind[]
const FORMS =
  'pagestream <tenant> <timeline>, ' +
  'basebackup <tenant> <timeline> [<lsn>] [sparse] [kind=primary|static|standby], ' +
  'fullbackup <tenant> <timeline> [<lsn>] [sparse], ' +
  'export <tenant> <timeline> [<lsn>] [checksums=on|off]'

/** Parses a query. Throws `invalid_argument` with the forms that exist. */
export function parsePageCommand(query: string): PageCommand {
  const words = query.trim().replace(/;$/, '').split(/\s+/)
  if (words[0] === 'export') return parseExport(words.slice(1))
  const firstOption = words.findIndex((word) => word === 'sparse' || word.includes('='))
  const options = firstOption === -1 ? [] : words.splice(firstOption)
  const [verb, tenant, timeline, lsn, ...rest] = words
  const backup = verb === 'basebackup' || verb === 'fullbackup'
  if (!backup && verb !== 'pagestream') {
    throw new ZenithError(
      'invalid_argument',
      `"${query.slice(0, 80)}" is not a command of the page service`,
      { hint: `It knows: ${FORMS}. For SQL, connect to a compute.` },
    )
  }
  const sparse = options.includes('sparse')
  const kinds = options.filter((option) => option !== 'sparse')
  const compute = kinds[0]?.replace(/^kind=/, '') ?? 'primary'
  const strange =
    kinds.length > (verb === 'basebackup' ? 1 : 0) ||
    options.length > kinds.length + 1 ||
    !COMPUTE_KINDS.includes(compute) ||
    (!backup && (lsn !== undefined || options.length > 0))
  if (!tenant || !timeline || rest.length > 0 || strange) {
    throw new ZenithError('invalid_argument', `the arguments of ${verb} are wrong`, {
      hint: `The forms are: ${FORMS}.`,
    })
  }
  const target = { tenantId: parseTenantShardId(tenant), timelineId: parseTimelineId(timeline) }
  if (!backup) return { kind: 'pagestream', ...target }
  const place = { lsn: lsn === undefined ? null : parseLsn(lsn), sparse, ...target }
  if (verb === 'fullbackup') return { kind: verb, ...place }
  return { kind: verb, compute: compute as ComputeKind, ...place }
}

const CHECKSUMS: Readonly<Record<string, boolean>> = {
  'checksums=on': true,
  'checksums=off': false,
}

function parseExport(words: string[]): ExportCommand {
  const last = words.at(-1) ?? ''
  const checksums = CHECKSUMS[last] ?? null
  const [tenant, timeline, lsn, ...rest] = checksums === null ? words : words.slice(0, -1)
  if (!tenant || !timeline || rest.length > 0) {
    throw new ZenithError('invalid_argument', 'the arguments of export are wrong', {
      hint: `The forms are: ${FORMS}.`,
    })
  }
  return {
    kind: 'export',
    tenantId: parseTenantShardId(tenant),
    timelineId: parseTimelineId(timeline),
    lsn: lsn === undefined ? null : parseLsn(lsn),
    checksums,
  }
}
