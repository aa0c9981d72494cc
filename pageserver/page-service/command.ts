/** The queries that the page service port answers. */
import { ZenithError } from '#libs/errors.ts'
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from '#libs/ids.ts'
import { type Lsn, parseLsn } from '#libs/lsn.ts'

interface Target {
  tenantId: TenantId
  timelineId: TimelineId
}

export type PageCommand =
  | ({ kind: 'pagestream' } & Target)
  | ({ kind: 'basebackup' | 'fullbackup'; lsn: Lsn | null; sparse: boolean } & Target)

const FORMS =
  'pagestream <tenant> <timeline>, basebackup|fullbackup <tenant> <timeline> [<lsn>] [sparse]'

/** Parses a query. Throws `invalid_argument` with the forms that exist. */
export function parsePageCommand(query: string): PageCommand {
  const words = query.trim().replace(/;$/, '').split(/\s+/)
  const sparse = words.at(-1) === 'sparse'
  const [verb, tenant, timeline, lsn, ...rest] = sparse ? words.slice(0, -1) : words
  const backup = verb === 'basebackup' || verb === 'fullbackup'
  if (!backup && verb !== 'pagestream') {
    throw new ZenithError(
      'invalid_argument',
      `"${query.slice(0, 80)}" is not a command of the page service`,
      { hint: `It knows: ${FORMS}. For SQL, connect to a compute.` },
    )
  }
  if (!tenant || !timeline || rest.length > 0 || (!backup && words.length > 3)) {
    throw new ZenithError('invalid_argument', `the arguments of ${verb} are wrong`, {
      hint: `The forms are: ${FORMS}.`,
    })
  }
  const target = { tenantId: parseTenantId(tenant), timelineId: parseTimelineId(timeline) }
  if (!backup) return { kind: 'pagestream', ...target }
  return { kind: verb, lsn: lsn === undefined ? null : parseLsn(lsn), sparse, ...target }
}
