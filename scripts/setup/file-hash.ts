/** Hashes of files and trees, the keys of the build cache. */
import { createHash } from 'node:crypto'
import {
  createReadStream,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'

export async function sha256File(path: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(path), hash)
  return hash.digest('hex')
}

/** First digits of the hash of any plain value; enough to name a folder. */
export function shortHash(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 12)
}

/** Hash of names, executable bits and contents of files, independent of times and of the place. */
export function hashFiles(root: string, files: readonly string[]): string {
  const hash = createHash('sha256')
  for (const file of files) {
    const path = join(root, file)
    const stat = lstatSync(path)
    const content = stat.isSymbolicLink() ? readlinkSync(path) : readFileSync(path)
    const kind = stat.isSymbolicLink() ? 'link' : (stat.mode & 0o100) !== 0 ? 'program' : 'file'
    hash.update(`${file}\0${kind}\0${content.length}\0`).update(content)
  }
  return hash.digest('hex')
}

/** All files below a folder whose names, and those of their folders, are wanted; sorted. */
export function listFiles(root: string, wanted: (name: string) => boolean): string[] {
  const found: string[] = []
  const visit = (folder: string): void => {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      if (!wanted(entry.name)) continue
      const path = join(folder, entry.name)
      if (entry.isDirectory()) visit(path)
      else found.push(path)
    }
  }
  visit('')
  return found.sort()
}

/**
 * As `hashFiles` for a whole tree, with the result kept in `memoFile`: a large tree is read again
 * only when a size, time or name in it has changed.
 */
export function hashTree(
  root: string,
  memoFile: string,
  wanted: (name: string) => boolean,
): string {
  const files = listFiles(root, wanted)
  const stats = files.map((file) => {
    const { size, mtimeMs, mode } = lstatSync(join(root, file))
    return [file, size, mtimeMs, mode]
  })
  const fingerprint = shortHash(stats)
  const memo: Record<string, string> = existsSync(memoFile)
    ? (JSON.parse(readFileSync(memoFile, 'utf8')) as Record<string, string>)
    : {}
  const key = `${root}:${fingerprint}`
  const known = memo[key]
  if (known !== undefined) return known
  const hash = hashFiles(root, files)
  mkdirSync(dirname(memoFile), { recursive: true })
  writeFileSync(memoFile, JSON.stringify({ [key]: hash }))
  return hash
}
