import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { makeEmptyFolder } from './files.ts'

const scratch = await mkdtemp(join(tmpdir(), 'zenith-files-'))
afterAll(() => rm(scratch, { recursive: true, force: true }))

test('a folder is empty afterwards, whether its parents or it were there or not', async () => {
  const path = join(scratch, 'not', 'there')
  for (const name of ['left', 'behind']) {
    await makeEmptyFolder(path)
    expect(await readdir(path)).toEqual([])
    await writeFile(join(path, name), '')
  }
  await makeEmptyFolder(join(scratch, 'not', 'too'))
  await expect(makeEmptyFolder('/dev/null/folder')).rejects.toThrow('ENOTDIR')
})
