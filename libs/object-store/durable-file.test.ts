import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { makeFolder } from './durable-file.ts'

const scratch = await mkdtemp(join(tmpdir(), 'durable-file-'))
afterAll(() => rm(scratch, { recursive: true, force: true }))

test('a folder is made with its parents, once or again, also when the root is missing', async () => {
  const root = join(scratch, 'not', 'there')
  for (const name of ['a/b/c', 'a/b/c', 'a/b/d']) {
    const { durable } = await makeFolder(join(root, name), root)
    expect((await stat(join(root, name))).isDirectory()).toBe(true)
    await durable
  }
  await (await makeFolder(root, root)).durable
})
