import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { objectStoreContract } from './contract-suite.ts'
import { LocalObjectStore } from './local-store.ts'

objectStoreContract('local folder', async (scratch) => {
  const root = join(scratch, 'objects')
  await mkdir(join(root, 't'), { recursive: true })
  // Left by a put that a crash cut short: never listed.
  await writeFile(join(root, 't', 'd.tmp~1-1'), 'half')
  if ((await readdir(join(root, 't'))).length !== 1) throw new Error('the set-up is wrong')
  return new LocalObjectStore(root)
})
