/**
 * Lets the model check look into the very classes that production runs: a state can be explored from
 * again only if it can be copied and compared whole, private fields included. Sources are loaded with
 * `#name` spelled `$name`, nothing else about them changes. Import this before anything that is to be
 * opened (`node --import`).
 */
import { registerHooks } from 'node:module'

const OPENED = /\/(compute\/proposer|safekeeper|libs\/(protocol|wal))\/.*\.ts$/
/** Not behind a quote: `'#libs/...'` is an import. */
const PRIVATE_NAME = /(?<!['"`\w])#([a-zA-Z]\w*)/g

registerHooks({
  load(url, context, nextLoad) {
    const loaded = nextLoad(url, context)
    if (!OPENED.test(url) || loaded.source === undefined || loaded.source === null) return loaded
    const source = Buffer.from(loaded.source as Uint8Array).toString('utf8')
    return { ...loaded, source: source.replace(PRIVATE_NAME, (_, name: string) => `$${name}`) }
  },
})
