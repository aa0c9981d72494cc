/**
 * Checks object storage: `node pageserver/check-main.ts --config pageserver.toml [--quick]
 * [--remove-orphans]`. Prints one JSON object a line: `{"progress": ...}` now and then, at last
 * `{"report": ...}`. It needs no other service, and none needs to stop for it.
 */
import { parseArgs } from 'node:util'
import { loadConfig } from '#libs/config.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { openObjectStore } from '#libs/object-store/open-store.ts'
import { checkStorage } from './check/storage-check.ts'
import { PageserverConfig } from './config.ts'

const PROGRESS_MS = 500

const { values } = parseArgs({
  options: {
    config: { type: 'string' },
    quick: { type: 'boolean', default: false },
    'remove-orphans': { type: 'boolean', default: false },
  },
})

function print(line: unknown): void {
  process.stdout.write(`${JSON.stringify(line)}\n`)
}

try {
  if (values.config === undefined) throw new Error('--config names pageserver.toml')
  const config = loadConfig(PageserverConfig, values.config)
  const store = await openObjectStore(config.object_store, config.dataDir)
  let toldAt = 0
  const report = await checkStorage(store, {
    quick: values.quick,
    removeOrphans: values['remove-orphans'],
    onProgress: (progress) => {
      if (performance.now() - toldAt < PROGRESS_MS) return
      toldAt = performance.now()
      print({ progress })
    },
  })
  print({ report })
} catch (error) {
  const hint = error instanceof ZenithError ? error.hint : undefined
  print({ error: errorMessage(error), ...(hint === undefined ? {} : { hint }) })
  process.exitCode = 1
}
