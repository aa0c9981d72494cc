/**
 * Performs the effects of `SegmentPlan` and `planBoot` on real files, all but writes of WAL, which
 * the WAL store does itself. Errors of a sync or of bytes written in place end the process (see
 * `fatalDiskError`); others are thrown, and with them nothing has happened.
 */
import { type FileHandle, open, readdir, rename, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type Lsn, segmentNumber, segmentOffset } from '#libs/lsn.ts'
import type { FoundFile } from './boot-plan.ts'
import type { ControlFile } from './control-file.ts'
import { fatalDiskError, removeFile, syncDirectory, syncHandle } from './files.ts'
import { segmentStart, type StoreEffect } from './segment-plan.ts'
import type { SpareSegments } from './spare-segments.ts'
import { leadHeaders, type TimelineStart } from './wal-lead.ts'

const CHUNK_BYTES = 1024 * 1024
const ZEROS = Buffer.alloc(CHUNK_BYTES)

export type FileEffect = Exclude<StoreEffect, { kind: 'write' }>

export class SegmentDisk {
  readonly directory: string
  readonly #spares: SpareSegments
  readonly #controlFile: ControlFile
  readonly #start: TimelineStart

  constructor(
    directory: string,
    options: { spares: SpareSegments; controlFile: ControlFile; start: TimelineStart },
  ) {
    this.directory = directory
    this.#spares = options.spares
    this.#controlFile = options.controlFile
    this.#start = options.start
  }

  path(name: string): string {
    return join(this.directory, name)
  }

  async perform(effect: FileEffect): Promise<void> {
    switch (effect.kind) {
      case 'take-spare':
        return this.#spares.take(this.path(effect.name))
      case 'lead':
        return this.#write(effect.name, (handle) => writeLead(handle, this.#start))
      case 'zero':
        return this.#write(effect.name, (handle) => zero(handle, effect.startLsn, effect.endLsn))
      case 'rewrite':
        return this.#write(effect.name, (handle) => rewrite(handle, effect.startLsn, effect.endLsn))
      case 'rename':
        return rename(this.path(effect.from), this.path(effect.to))
      case 'unlink':
        return removeFile(this.path(effect.name))
      case 'sync-folder':
        return syncDirectory(this.directory)
      case 'mark':
        return this.#controlFile.mark(effect.dirtyTail, effect.localStartLsn)
    }
  }

  /** All files of the folder. */
  async list(): Promise<FoundFile[]> {
    const names = await readdir(this.directory)
    return Promise.all(
      names.map(async (name) => {
        const { size, ino } = await stat(this.path(name))
        return { name, sizeBytes: size, inode: ino }
      }),
    )
  }

  async #write(name: string, action: (handle: FileHandle) => Promise<void>): Promise<void> {
    const path = this.path(name)
    const handle = await open(path, 'r+')
    try {
      await action(handle)
      await syncHandle(handle, path)
    } catch (error) {
      fatalDiskError(error, `writing ${path}`)
    } finally {
      await handle.close()
    }
  }
}

async function writeLead(handle: FileHandle, start: TimelineStart): Promise<void> {
  for (const { pageLsn, bytes } of leadHeaders(start)) {
    await handle.write(bytes, 0, bytes.length, segmentOffset(pageLsn))
  }
}

async function zero(handle: FileHandle, startLsn: Lsn, endLsn: Lsn): Promise<void> {
  const base = segmentStart(segmentNumber(startLsn))
  for (let lsn = startLsn; lsn < endLsn; ) {
    const length = Math.min(CHUNK_BYTES, endLsn - lsn)
    const { bytesWritten } = await handle.write(ZEROS, 0, length, lsn - base)
    lsn += bytesWritten
  }
}

async function rewrite(handle: FileHandle, startLsn: Lsn, endLsn: Lsn): Promise<void> {
  const base = segmentStart(segmentNumber(startLsn))
  const buffer = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, endLsn - startLsn))
  for (let lsn = startLsn; lsn < endLsn; ) {
    const length = Math.min(buffer.length, endLsn - lsn)
    const { bytesRead } = await handle.read(buffer, 0, length, lsn - base)
    if (bytesRead === 0) throw new Error('the file became shorter while it was read')
    for (let done = 0; done < bytesRead; ) {
      const { bytesWritten } = await handle.write(buffer, done, bytesRead - done, lsn - base + done)
      done += bytesWritten
    }
    lsn += bytesRead
  }
}
