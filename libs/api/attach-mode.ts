/** In which role a pageserver serves a tenant. */
import { type Static, Type } from 'typebox'

/**
 * `attached`: the only holder. `multi`: the newest holder while an older one still serves reads;
 * it releases no objects, which the older one may need. `stale`: an older holder; it takes in WAL and
 * serves reads, and writes nothing to object storage.
 */
export const AttachMode = Type.Union([
  Type.Literal('attached'),
  Type.Literal('multi'),
  Type.Literal('stale'),
])
export type AttachMode = Static<typeof AttachMode>
