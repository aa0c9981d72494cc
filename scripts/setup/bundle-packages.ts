/**
 * Every start of a service loads these packages, a thousand small files of them, which takes most of
 * its processor time. This bundles each into a few files where it is installed, so no import needs
 * to know. `with-node.sh` runs it once per installation of the packages.
 *
 *   scripts/with-node.sh scripts/setup/bundle-packages.ts
 *
 * A package's entry `index.mjs` stays beside it as `index.unbundled.mjs`, and passes on what
 * `bundled-<version of this>/` exports. Files are replaced as a whole: processes that load the
 * package meanwhile get either, and copies of the folder that share its files stay as they are.
 */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, extname, join, relative } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
// Comes with vitest.
import { rolldown } from 'rolldown'

interface PackageToBundle {
  readonly name: string
  /** Every file of the package that anybody imports, so that no part of it is loaded twice. */
  readonly entries: readonly string[]
}

const TYPEBOX_PARTS = ['compile', 'error', 'format', 'guard', 'schema', 'system', 'type', 'value']

const PACKAGES: readonly PackageToBundle[] = [
  {
    name: 'typebox',
    entries: ['build/index.mjs', ...TYPEBOX_PARTS.map((part) => `build/${part}/index.mjs`)],
  },
  { name: 'jose', entries: ['dist/webapi/index.js'] },
  { name: '@prometheus-io/client', entries: ['index.js'] },
  { name: 'fastify', entries: ['fastify.js'] },
]

/** Loaded by others too, which must meet the same. */
const LEFT_OUT = [/^pino$/]

const MODULES = fileURLToPath(new URL('../../node_modules', import.meta.url))
const VERSION = createHash('sha256')
  .update(readFileSync(fileURLToPath(import.meta.url)))
  .digest('hex')
  .slice(0, 12)

async function bundlePackage({ name, entries }: PackageToBundle): Promise<void> {
  const folder = join(MODULES, name)
  const format = isModule(folder, entries[0] as string) ? 'esm' : 'cjs'
  for (const entry of entries) {
    const file = join(folder, entry)
    if (!existsSync(unbundled(file))) replace(unbundled(file), readFileSync(file))
  }
  const bundles = join(folder, `bundled-${VERSION}`)
  if (!existsSync(bundles)) await writeBundles(folder, entries, { format, bundles })
  for (const entry of entries) {
    const file = join(folder, entry)
    const bundle = relative(dirname(file), join(bundles, bundleName(entry, format)))
    const exported = Object.keys(await import(pathToFileURL(unbundled(file)).href))
    replace(file, passOn(bundle.startsWith('.') ? bundle : `./${bundle}`, format, exported))
  }
}

async function writeBundles(
  folder: string,
  entries: readonly string[],
  { format, bundles }: { format: 'esm' | 'cjs'; bundles: string },
): Promise<void> {
  const stage = `${bundles}.new`
  rmSync(stage, { recursive: true, force: true })
  const build = await rolldown({
    input: Object.fromEntries(
      entries.map((entry) => [bundleName(entry, format), unbundled(join(folder, entry))]),
    ),
    platform: 'node',
    external: LEFT_OUT,
  })
  await build.write({
    dir: stage,
    format,
    entryFileNames: '[name]',
    chunkFileNames: format === 'esm' ? 'part-[name].mjs' : 'part-[name].cjs',
    // Names stay, for stack traces.
    minify: { compress: false, mangle: false, codegen: { removeWhitespace: true } },
  })
  renameSync(stage, bundles)
}

/** The new text of an entry. */
function passOn(bundle: string, format: 'esm' | 'cjs', exported: readonly string[]): string {
  if (format === 'esm') {
    const all = `export * from '${bundle}'\n`
    return exported.includes('default') ? `${all}export { default } from '${bundle}'\n` : all
  }
  const names = exported.filter((name) => name !== 'default' && name !== 'module.exports')
  // The second line is for Node alone, which looks in the text for names that may be imported.
  return `module.exports = require('${bundle}')\n0 && (module.exports = { ${names.join(', ')} })\n`
}

function isModule(folder: string, entry: string): boolean {
  const text = readFileSync(join(folder, 'package.json'), 'utf8')
  const { type } = JSON.parse(text) as { type?: string }
  return extname(entry) === '.mjs' || type === 'module'
}

function unbundled(file: string): string {
  const extension = extname(file)
  return join(dirname(file), `${basename(file, extension)}.unbundled${extension}`)
}

/** A flat name: `build/value/index.mjs` becomes `build-value-index.mjs`. */
function bundleName(entry: string, format: 'esm' | 'cjs'): string {
  const flat = entry.slice(0, -extname(entry).length).replaceAll('/', '-')
  return format === 'esm' ? `${flat}.mjs` : `${flat}.cjs`
}

function replace(file: string, content: string | Uint8Array): void {
  writeFileSync(`${file}.new`, content)
  renameSync(`${file}.new`, file)
}

for (const one of PACKAGES) await bundlePackage(one)
