/**
 * Object storage as Zenith needs it: immutable objects by name, written once.
 *
 * Names are relative paths of components separated by `/`, each made of letters, digits, `.`, `_`
 * and `-`. A name is written at most once: `put` refuses an existing one (S3: If-None-Match), so
 * two writers can never replace each other's objects. Every implementation passes
 * `contract-suite.ts`.
 */
import { ZenithError } from '#libs/errors.ts'

export interface ObjectEntry {
  name: string
  sizeBytes: number
}

export interface ObjectListing {
  objects: ObjectEntry[]
  /** With `delimited`: the next path component of what lies deeper, without the slash. */
  folders: string[]
}

export interface ObjectStore {
  /**
   * Durable when it resolves. Throws `already_exists` when the name is taken, leaving the old
   * object as it was; an interrupted put leaves nothing under the name.
   */
  put(name: string, body: Buffer): Promise<void>
  /** As `put`, with a local file's content. The file must not change afterwards. */
  putFile(name: string, path: string): Promise<void>
  /** Throws `not_found`. */
  get(name: string): Promise<Buffer>
  /** Exactly `length` bytes from `offset`; throws `not_found` or `out_of_range`. */
  getRange(name: string, offset: number, length: number): Promise<Buffer>
  /** Writes the object to a new local file; the caller syncs and renames. Throws `not_found`. */
  getFile(name: string, path: string): Promise<void>
  /** Size, or null when there is no such object. */
  size(name: string): Promise<number | null>
  /**
   * Objects below `folder`, sorted by name: all of them, or with `delimited` only the direct ones
   * plus the names of direct subfolders. An unknown folder is empty.
   */
  list(folder: string, options?: { delimited?: boolean }): Promise<ObjectListing>
  /** Missing objects are no error. */
  delete(name: string): Promise<void>
  /** As `delete` of each, in fewer requests. After a failure some may be gone and others not. */
  deleteAll(names: readonly string[]): Promise<void>
}

const COMPONENT = /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/

/** Throws `invalid_argument` unless the name is a safe relative path. */
export function checkObjectName(name: string): void {
  for (const component of name.split('/')) {
    if (!COMPONENT.test(component)) {
      throw new ZenithError('invalid_argument', `"${name}" is not an object name`)
    }
  }
}
