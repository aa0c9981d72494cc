/**
 * Builds the modules of pgxn/ against an installed Postgres, in a copy so that the work tree stays
 * clean, into a prefix of its own: the Postgres prefix by hard links plus the modules. A change in
 * pgxn/ therefore costs seconds, and running computes keep the files that they were started with.
 */
import { cpSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { runLogged } from './command.ts'
import { hashFiles, listFiles, shortHash } from './file-hash.ts'
import type { BuildStep } from './postgres-build.ts'

const BUILD_PRODUCT = /\.(o|so|bc|d|a|gcno|gcda)$|^(results|tmp_check|output_iso|regression\.\w+)$/

/** Raised when this recipe changes, so that what the old one built is not used. */
const RECIPE = 2

/** Name in the cache of Postgres `postgresName` with the modules as they are in the work tree. */
export function pgxnInstallName(postgresName: string, pgxn: string): string {
  const key = shortHash([RECIPE, hashFiles(pgxn, pgxnFiles(pgxn))])
  return `${postgresName}-${key}`
}

export async function buildPgxn(
  postgresPrefix: string,
  pgxn: string,
  name: string,
  step: BuildStep,
): Promise<string> {
  const { cache, lockFd } = step
  const logFile = cache.log('pgxn-build')
  const prefix = cache.path(name)
  const staging = cache.path(`${name}.new`)
  const build = cache.path(`build-${name}`)
  rmSync(staging, { recursive: true, force: true })
  await copyPrefix(postgresPrefix, staging, step)
  rmSync(build, { recursive: true, force: true })
  for (const file of pgxnFiles(pgxn)) {
    mkdirSync(dirname(join(build, file)), { recursive: true })
    cpSync(join(pgxn, file), join(build, file))
  }
  const make = (prefixOfConfig: string, ...words: string[]): string[] => {
    const config = `PG_CONFIG=${join(prefixOfConfig, 'bin', 'pg_config')}`
    return ['make', '-C', build, config, ...words]
  }
  const what = 'Building the Postgres extension'
  // Built against the Postgres prefix, whose name stays: modules remember where libpq is.
  const compile = make(postgresPrefix, `-j${availableParallelism()}`)
  await runLogged({ what, command: compile, logFile, lockFd })
  // The installer replaces files and never writes into them, so the hard links are safe.
  await runLogged({ what, command: make(staging, 'install'), logFile, lockFd })
  rmSync(prefix, { recursive: true, force: true })
  renameSync(staging, prefix)
  rmSync(build, { recursive: true, force: true })
  return prefix
}

/** Copies a folder, by hard links where that is possible. */
export async function copyPrefix(from: string, to: string, step: BuildStep): Promise<void> {
  const logFile = step.cache.log('pgxn-build')
  const what = `Copying ${basename(from)}`
  try {
    await runLogged({ what, command: ['cp', '-al', from, to], logFile, lockFd: step.lockFd })
  } catch {
    // Another file system, or files of another owner: then a real copy.
    rmSync(to, { recursive: true, force: true })
    await runLogged({ what, command: ['cp', '-a', from, to], logFile, lockFd: step.lockFd })
  }
}

function pgxnFiles(pgxn: string): string[] {
  const wanted = (name: string): boolean => !BUILD_PRODUCT.test(name)
  return listFiles(pgxn, wanted).filter((file) => !file.startsWith('patches/'))
}
