/** The queries that the page service port answers. */
import { ZenithError } from '#libs/errors.ts'
import { parseTimelineId, type TenantId, type TimelineId } from '#libs/ids.ts'
import { type Lsn, parseLsn } from '#libs/lsn.ts'
import { parseTenantShardId } from '#libs/sharding.ts'
import type { ShardAddress } from '../export/shard-pages.ts'

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
  shards: ShardAddress[] | null
}

/** Everything that stock Postgres needs; `shards` null: the tenant is in one piece. */
export interface FullBackupCommand extends Target {
  kind: 'fullbackup'
  lsn: Lsn | null
  sparse: boolean
  shards: ShardAddress[] | null
}

/** A shard's own blocks of relations, for the backup that shard 0 puts together. */
export interface StripesCommand extends Target {
  kind: 'stripes'
  lsn: Lsn
}

export type PageCommand =
  | ({ kind: 'pagestream' } & Target)
  | BackupCommand
  | FullBackupCommand
  | ExportCommand
  | StripesCommand

const COMPUTE_KINDS: readonly string[] = ['primary', 'static', 'standby'] satisfies ComputeKind[]
const FORMS =
  'pagestream <tenant> <timeline>, ' +
  'basebackup <tenant> <timeline> [<lsn>] [sparse] [kind=primary|static|standby], ' +
  'fullbackup <tenant> <timeline> [<lsn>] [sparse] [shards=<host>:<port>,...], ' +
  'export <tenant> <timeline> [<lsn>] [checksums=on|off] [shards=<host>:<port>,...], ' +
  'stripes <tenant> <timeline> <lsn>'

/** Parses a query. Throws `invalid_argument` with the forms that exist. */
export function parsePageCommand(query: string): PageCommand {
  const [verb = '', ...words] = query.trim().replace(/;$/, '').split(/\s+/)
  const firstOption = words.findIndex((word) => word === 'sparse' || word.includes('='))
  const options = new Options(firstOption === -1 ? [] : words.splice(firstOption))
  const command = commandOf(verb, words, options)
  if (command === undefined) {
    throw new ZenithError(
      'invalid_argument',
      `"${query.slice(0, 80)}" is not a command of the page service`,
      { hint: `It knows: ${FORMS}. For SQL, connect to a compute.` },
    )
  }
  if (command !== null && options.allTaken) return command
  throw wrongArguments(verb)
}

/** Undefined for a command that there is not, null for one with too few or too many words. */
function commandOf(
  verb: string,
  words: readonly string[],
  options: Options,
): PageCommand | null | undefined {
  const [tenant, timeline, at] = words
  const target = () => {
    if (!tenant || !timeline || words.length > 3) throw wrongArguments(verb)
    return { tenantId: parseTenantShardId(tenant), timelineId: parseTimelineId(timeline) }
  }
  const lsn = () => (at === undefined ? null : parseLsn(at))
  switch (verb) {
    case 'pagestream':
      return at === undefined ? { kind: verb, ...target() } : null
    case 'basebackup': {
      const compute = options.take('kind') ?? 'primary'
      if (!COMPUTE_KINDS.includes(compute)) return null
      const sparse = options.takeWord('sparse')
      return { kind: verb, compute: compute as ComputeKind, lsn: lsn(), sparse, ...target() }
    }
    case 'fullbackup': {
      const sparse = options.takeWord('sparse')
      return { kind: verb, lsn: lsn(), sparse, shards: shardsOf(options), ...target() }
    }
    case 'export': {
      const checksums = options.take('checksums')
      if (checksums !== null && checksums !== 'on' && checksums !== 'off') return null
      const wanted = checksums === null ? null : checksums === 'on'
      return { kind: verb, lsn: lsn(), checksums: wanted, shards: shardsOf(options), ...target() }
    }
    case 'stripes':
      return at === undefined ? null : { kind: verb, lsn: parseLsn(at), ...target() }
    default:
      return undefined
  }
}

function wrongArguments(verb: string): ZenithError {
  return new ZenithError('invalid_argument', `the arguments of ${verb} are wrong`, {
    hint: `The forms are: ${FORMS}.`,
  })
}

/** Words at the end of a command, each at most once and in any order. */
class Options {
  readonly #words: string[]

  constructor(words: string[]) {
    this.#words = words
  }

  get allTaken(): boolean {
    return this.#words.length === 0
  }

  takeWord(word: string): boolean {
    const at = this.#words.indexOf(word)
    if (at !== -1) this.#words.splice(at, 1)
    return at !== -1
  }

  take(name: string): string | null {
    const at = this.#words.findIndex((word) => word.startsWith(`${name}=`))
    return at === -1 ? null : (this.#words.splice(at, 1)[0] as string).slice(name.length + 1)
  }
}

/** Where all shards are, in their order; an IPv6 address stands in brackets. */
function shardsOf(options: Options): ShardAddress[] | null {
  const list = options.take('shards')
  if (list === null) return null
  return list.split(',').map((text) => {
    const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text)
    const port = Number(match?.[3])
    if (match === null || port === 0 || port > 65535) {
      throw new ZenithError('invalid_argument', `"${text}" is not an address of a shard`, {
        hint: 'As in: shards=127.0.0.1:6400,127.0.0.1:6401',
      })
    }
    return { host: (match[1] ?? match[2]) as string, port }
  })
}
