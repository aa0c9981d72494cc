/** The file that COPY reads: tab-separated rows of about 100 bytes, the same in every run. */
import { createHash } from 'node:crypto'
import { closeSync, openSync, writeSync } from 'node:fs'

/** Writes at least `bytes` bytes of rows (id, grp, filler) and returns how many it wrote. */
export function writeCopyFile(path: string, bytes: number): number {
  const file = openSync(path, 'w')
  const filler = createHash('sha512').update('zenith').digest('hex').slice(0, 84)
  let written = 0
  let id = 0
  while (written < bytes) {
    const lines: string[] = []
    for (let line = 0; line < 10_000; line++, id++) {
      lines.push(`${id}\t${id % 1000}\t${filler.slice(id % 8)}${id % 97}\n`)
    }
    written += writeSync(file, lines.join(''))
  }
  closeSync(file)
  return written
}
