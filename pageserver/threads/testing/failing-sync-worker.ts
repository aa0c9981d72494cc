/** The flush thread on a disk whose syncs fail as soon as the file named by FAILING_DISK exists. */
import { existsSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'

const anyFile = await open('/dev/null', 'r')
const files = Object.getPrototypeOf(anyFile) as Pick<FileHandle, 'datasync'>
await anyFile.close()
const { datasync } = files

files.datasync = async function (this: FileHandle): Promise<void> {
  if (existsSync(process.env['FAILING_DISK'] as string)) {
    throw Object.assign(new Error('EIO: i/o error, fdatasync'), { code: 'EIO' })
  }
  await datasync.call(this)
}

await import('../flush-worker.ts')
