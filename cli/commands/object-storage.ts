/** Where an installation keeps its objects, from the options of `zenith init`. */
import { ZenithError } from '#libs/errors.ts'
import type { S3Config } from '#libs/object-store/s3-config.ts'

export interface StorageOptions {
  readonly storage?: string
  readonly s3Endpoint?: string
  readonly s3Region?: string
  readonly s3PathStyle?: boolean
}

const S3_URL = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/([A-Za-z0-9._/-]*))?$/

/**
 * Null for a folder of the installation, the default. Credentials are not among the options: they
 * come from the environment of "zenith start", a profile or the machine's role, as for other tools.
 * Throws `invalid_argument` for an address that is none.
 */
export function s3ConfigOf(options: StorageOptions): S3Config | null {
  const { storage, s3Endpoint, s3Region, s3PathStyle } = options
  if (storage === undefined) {
    if (s3Endpoint === undefined && s3Region === undefined && s3PathStyle === undefined) return null
    throw new ZenithError('invalid_argument', 'Options of S3 are given, but no bucket.', {
      hint: 'Add --storage s3://bucket/prefix.',
    })
  }
  const [matched, bucket = '', prefix = ''] = S3_URL.exec(storage) ?? []
  if (matched === undefined) {
    throw new ZenithError('invalid_argument', `"${storage}" is no address of a bucket.`, {
      hint: 'It looks like s3://my-bucket or s3://my-bucket/some/prefix.',
    })
  }
  const trimmed = prefix.replace(/\/+$/, '')
  return {
    kind: 's3',
    bucket,
    ...(trimmed === '' ? {} : { prefix: trimmed }),
    ...(s3Endpoint === undefined ? {} : { endpoint: s3Endpoint }),
    ...(s3Region === undefined ? {} : { region: s3Region }),
    ...(s3PathStyle === undefined ? {} : { path_style: s3PathStyle }),
  }
}
