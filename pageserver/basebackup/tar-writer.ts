/** Writes backup entries as a tar archive to a sink that can say "enough for now". */
import type { Writable } from 'node:stream'
import { pack, type Pack } from 'tar-stream'
import { ZenithError } from '#libs/errors.ts'
import type { BackupEntry } from './base-backup.ts'

/** Takes archive bytes, in parts that follow one another; resolves when it wants more. */
export type ArchiveSink = (parts: Buffer[]) => Promise<void> | void

/** Small entries gather up to this size before they are sent. */
const SEND_BYTES = 256 * 1024

/** Streams the archive into `sink`; returns its size. Throws what an entry or the sink throws. */
export async function writeTar(
  entries: AsyncGenerator<BackupEntry>,
  sink: ArchiveSink,
): Promise<number> {
  try {
    return await sendArchive(entries, sink)
  } finally {
    // When the sink gives up in the middle of an entry, nobody else lets the others go.
    entries.return(undefined).catch(() => undefined)
  }
}

async function sendArchive(
  entries: AsyncGenerator<BackupEntry>,
  sink: ArchiveSink,
): Promise<number> {
  const archive = pack()
  // Told by the loop below; when that has ended, somebody else has failed before.
  archive.on('error', () => undefined)
  const filling = fill(archive, entries)
  // Awaited below; until then an early failure must not count as unhandled.
  filling.catch((error: unknown) => archive.destroy(error as Error))
  let parts: Buffer[] = []
  let partsBytes = 0
  let totalBytes = 0
  for await (const chunk of archive as AsyncIterable<Buffer>) {
    parts.push(chunk)
    partsBytes += chunk.length
    totalBytes += chunk.length
    if (partsBytes < SEND_BYTES) continue
    await sink(parts)
    parts = []
    partsBytes = 0
  }
  if (partsBytes > 0) await sink(parts)
  await filling
  return totalBytes
}

async function fill(archive: Pack, entries: AsyncIterable<BackupEntry>): Promise<void> {
  for await (const entry of entries) {
    if (entry.type === 'directory') {
      archive.entry({ name: entry.name, type: 'directory', mode: 0o700 })
    } else if (entry.type === 'file') {
      archive.entry({ name: entry.name, mode: 0o600, size: entry.content.length }, entry.content)
    } else {
      await fillStream(archive, entry)
    }
  }
  archive.finalize()
}

async function fillStream(
  archive: Pack,
  entry: Extract<BackupEntry, { type: 'stream' }>,
): Promise<void> {
  const written = Promise.withResolvers<void>()
  // It may settle while nobody waits for it.
  written.promise.catch(() => undefined)
  const header = { name: entry.name, mode: 0o600, size: entry.sizeBytes }
  const target = archive.entry(header, (error?: Error | null) => {
    if (error) written.reject(error)
    else written.resolve()
  }) as unknown as Writable
  target.on('error', (error) => written.reject(error))
  target.once('close', () =>
    written.reject(new ZenithError('unavailable', 'the archive was given up')),
  )
  for await (const chunk of entry.chunks) {
    if (target.write(chunk)) continue
    const drained = new Promise<void>((resolve) => target.once('drain', () => resolve()))
    await Promise.race([drained, written.promise])
  }
  target.end()
  await written.promise
}
