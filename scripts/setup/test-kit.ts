/**
 * PostgreSQL's own tests, made ready to run against an installed server: the tests of the source
 * tree (core, isolation, contrib, PL/pgSQL), the C functions that the core tests load, and a list
 * of what the makefiles say. It is built on demand, from the same source as the server and with
 * the server's own PGXS, so nothing of Postgres is compiled a second time but one file.
 *
 *   <kit>/suites.json             one entry per suite, see `KitSuite`
 *   <kit>/lib/*.so                regress, autoinc, refint: the folder for pg_regress' --dlpath
 *   <kit>/src/test/regress ...    as in the source tree
 */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { runLogged } from './command.ts'
import type { BuildStep } from './postgres-build.ts'
import { fetchSource, type PostgresSource, unpackSource } from './postgres-source.ts'

export const KIT_LIST = 'suites.json'

/** Raised when this recipe changes, so that what the old one built is not used. */
const RECIPE = 2

/** What the kit keeps of the source tree. */
const KEPT = ['src/test/regress', 'src/test/isolation', 'src/pl/plpgsql/src', 'contrib']

const MAKE_VARIABLES = [
  'NAME',
  'MODULES',
  'EXTENSION',
  'REGRESS',
  'REGRESS_OPTS',
  'ISOLATION',
  'ISOLATION_OPTS',
] as const

/** A folder with tests, as its makefile describes them. */
export interface KitSuite {
  /** `contrib/hstore` */
  readonly folder: string
  /** Tests for pg_regress, and those for pg_isolation_regress. */
  readonly regress: readonly string[]
  readonly isolation: readonly string[]
  /** To be loaded into the database of the isolation tests. */
  readonly isolationExtensions: readonly string[]
  /** Lines of postgresql.conf that the tests need. */
  readonly settings: Readonly<Record<string, string>>
}

/** Name in the cache of the kit for Postgres `postgresName`. */
export function testKitName(postgresName: string): string {
  return `${postgresName}-tests-${RECIPE}`
}

/** Builds the kit for the Postgres installed in `prefix`; returns its folder. */
export async function buildTestKit(options: {
  sources: readonly PostgresSource[]
  patches: readonly string[]
  prefix: string
  name: string
  step: BuildStep
}): Promise<string> {
  const { prefix, name, step } = options
  const { cache, lockFd } = step
  const logFile = cache.log('postgres-tests')
  const work = cache.path(`build-${name}`)
  const staging = cache.path(`${name}.new`)
  for (const folder of [work, staging]) rmSync(folder, { recursive: true, force: true })
  mkdirSync(work, { recursive: true })
  const tree = join(work, 'source')
  const source = await fetchSource(options.sources, cache, lockFd)
  await unpackSource(source, options.patches, tree, logFile, lockFd)
  for (const folder of KEPT) {
    mkdirSync(dirname(join(staging, folder)), { recursive: true })
    renameSync(join(tree, folder), join(staging, folder))
  }

  const pgConfig = `PG_CONFIG=${join(prefix, 'bin', 'pg_config')}`
  await buildTestFunctions({ prefix, staging, work, pgConfig, step })
  // Makefiles outside contrib include these; their own variables need nothing from them.
  writeFileSync(join(staging, 'src', 'Makefile.global'), 'top_srcdir = $(top_builddir)\n')
  writeFileSync(join(staging, 'src', 'Makefile.shlib'), '')
  const suites: KitSuite[] = []
  const contrib = readdirSync(join(staging, 'contrib'), { withFileTypes: true })
  const modules = contrib.filter((entry) => entry.isDirectory()).map((entry) => entry.name)
  for (const folder of ['src/pl/plpgsql/src', ...modules.sort().map((one) => `contrib/${one}`)]) {
    if (!existsSync(join(staging, folder, 'Makefile'))) continue
    const variables = await makeVariables(staging, folder, { pgConfig, logFile, lockFd })
    if (!isInstalled(prefix, variables)) continue
    const suite = describeSuite(folder, variables, (file) =>
      readFileSync(join(staging, file), 'utf8'),
    )
    if (suite.regress.length + suite.isolation.length > 0) suites.push(suite)
  }
  writeFileSync(join(staging, KIT_LIST), `${JSON.stringify(suites, null, 2)}\n`)
  const kit = cache.path(name)
  renameSync(staging, kit)
  rmSync(work, { recursive: true, force: true })
  return kit
}

/** regress.so by PGXS; the two modules of contrib/spi are installed with the server. */
async function buildTestFunctions(options: {
  prefix: string
  staging: string
  work: string
  pgConfig: string
  step: BuildStep
}): Promise<void> {
  const { prefix, staging, work, pgConfig, step } = options
  const folder = join(work, 'regress')
  mkdirSync(folder)
  copyFileSync(join(staging, 'src/test/regress/regress.c'), join(folder, 'regress.c'))
  const lines = ['MODULES = regress', 'PGXS := $(shell $(PG_CONFIG) --pgxs)', 'include $(PGXS)']
  writeFileSync(join(folder, 'Makefile'), `${lines.join('\n')}\n`)
  await runLogged({
    what: 'Building the C functions of the regression tests',
    command: ['make', pgConfig],
    cwd: folder,
    logFile: step.cache.log('postgres-tests'),
    lockFd: step.lockFd,
  })
  const lib = join(staging, 'lib')
  mkdirSync(lib)
  copyFileSync(join(folder, 'regress.so'), join(lib, 'regress.so'))
  for (const name of ['autoinc.so', 'refint.so']) {
    copyFileSync(join(libraryFolder(prefix), name), join(lib, name))
  }
}

type Variables = Readonly<Record<(typeof MAKE_VARIABLES)[number], readonly string[]>>

/** Asks make itself, since makefiles compute some of these. */
async function makeVariables(
  staging: string,
  folder: string,
  run: { pgConfig: string; logFile: string; lockFd: number },
): Promise<Variables> {
  const found: Record<string, readonly string[]> = {}
  const prints = MAKE_VARIABLES.map((name) => `$(info zenith:${name}=$(${name}))`).join('')
  await runLogged({
    what: `Reading the makefile of ${folder}`,
    command: ['make', '-n', 'USE_PGXS=1', run.pgConfig, `--eval=print: ; @:${prints}`, 'print'],
    cwd: join(staging, folder),
    logFile: run.logFile,
    lockFd: run.lockFd,
    onLine: (line) => {
      const [, name, value] = /^zenith:(\w+)=(.*)$/.exec(line) ?? []
      if (name !== undefined) found[name] = (value ?? '').split(/\s+/).filter((word) => word !== '')
    },
  })
  for (const name of MAKE_VARIABLES) found[name] ??= []
  return found as Variables
}

/** Modules that need what this build was configured without are not installed, nor tested. */
function isInstalled(prefix: string, variables: Variables): boolean {
  const library = (name: string): boolean => existsSync(join(libraryFolder(prefix), `${name}.so`))
  const control = (name: string): boolean =>
    existsSync(join(shareFolder(prefix), 'extension', `${name}.control`))
  const { NAME: names, MODULES: modules, EXTENSION: extensions } = variables
  return (
    names.every(library) &&
    modules.every(library) &&
    extensions.every(control) &&
    names.length + modules.length + extensions.length > 0
  )
}

const LOAD = '--load-extension='

/** Pure: from the variables of a makefile to what is run; `read` gives files of the source tree. */
export function describeSuite(
  folder: string,
  variables: Variables,
  read: (file: string) => string,
): KitSuite {
  const settings: Record<string, string> = {}
  const words = [...variables.REGRESS_OPTS, ...variables.ISOLATION_OPTS]
  for (const [index, word] of words.entries()) {
    if (word !== '--temp-config') continue
    const file = join(folder, basename(words[index + 1] ?? ''))
    for (const line of read(file).split('\n')) {
      const [, name, value] = /^\s*([\w.]+)\s*=\s*(.*?)\s*$/.exec(line) ?? []
      if (name !== undefined) settings[name] = (value ?? '').replace(/^'(.*)'$/, '$1')
    }
  }
  return {
    folder,
    regress: variables.REGRESS,
    isolation: variables.ISOLATION,
    isolationExtensions: variables.ISOLATION_OPTS.filter((word) => word.startsWith(LOAD)).map(
      (word) => word.slice(LOAD.length),
    ),
    settings,
  }
}

function libraryFolder(prefix: string): string {
  const own = join(prefix, 'lib', 'postgresql')
  return existsSync(own) ? own : join(prefix, 'lib')
}

function shareFolder(prefix: string): string {
  const own = join(prefix, 'share', 'postgresql')
  return existsSync(own) ? own : join(prefix, 'share')
}
