/** Reads a compute's spec and the places that follow from where it lies. */
import { readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'

export interface ComputePlace {
  /** Folder of the endpoint, which holds `spec.json`. */
  readonly folder: string
  readonly dataFolder: string
  readonly postgresLog: string
}

/** The file named by `--spec`. Throws `invalid_argument` when it is missing. */
export function specPath(argv: readonly string[] = process.argv.slice(2)): string {
  const at = argv.indexOf('--spec')
  const file = at === -1 ? undefined : argv[at + 1]
  if (file !== undefined) return file
  throw new ZenithError('invalid_argument', 'the option --spec FILE is missing')
}

/**
 * Loads `spec.json`. The control plane wrote it from its checked schema, so only its presence and
 * the fields that choose paths and addresses are looked at: starting fast matters here.
 */
export function loadSpec(file: string): { spec: ComputeSpec; place: ComputePlace } {
  let spec: ComputeSpec
  try {
    spec = JSON.parse(readFileSync(file, 'utf8')) as ComputeSpec
  } catch (error) {
    throw new ZenithError('invalid_argument', `cannot read ${file}: ${errorMessage(error)}`)
  }
  for (const key of ['tenantId', 'timelineId', 'port', 'pageserver', 'safekeepers'] as const) {
    if (spec[key] === undefined) {
      throw new ZenithError('invalid_argument', `${file}: the field "${key}" is missing`)
    }
  }
  const folder = dirname(resolve(file))
  return {
    spec,
    place: {
      folder,
      dataFolder: join(folder, 'pgdata'),
      postgresLog: join(folder, 'postgres.log'),
    },
  }
}
