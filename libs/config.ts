/**
 * Settings of a process: one TOML file, checked against a typed table. The file's folder is the
 * process' data folder, so moving an installation needs no edit.
 */
import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { parse } from 'smol-toml'
import { type Static, type TSchema } from 'typebox'
import { Compile } from 'typebox/compile'
import { errorMessage, ZenithError } from './errors.ts'

/** Finds `--<name> FILE` or `--<name>=FILE` among the arguments; throws a sentence when it is missing. */
export function requiredOption(argv: readonly string[], name: string): string {
  const flag = `--${name}`
  for (const [index, argument] of argv.entries()) {
    const value = argument === flag ? argv[index + 1] : argument.split(`${flag}=`)[1]
    if (argument.startsWith(flag) && value) return value
  }
  throw new ZenithError('invalid_argument', `the option ${flag} FILE is missing`)
}

/** Path of the settings file, from `--config`. */
export function configPath(argv: readonly string[] = process.argv.slice(2)): string {
  return resolve(requiredOption(argv, 'config'))
}

/**
 * Reads and checks a settings file. Throws `invalid_argument` that names the file and the key which
 * is unknown, missing or of the wrong type.
 */
export function loadConfig<T extends TSchema>(
  schema: T,
  file: string,
): Static<T> & { dataDir: string } {
  let table: unknown
  try {
    table = parse(readFileSync(file, 'utf8'))
  } catch (error) {
    throw new ZenithError('invalid_argument', `cannot read ${file}: ${errorMessage(error)}`, {
      cause: error,
    })
  }
  const validator = Compile(schema)
  if (!validator.Check(table)) {
    const first = [...validator.Errors(table)][0]
    const where = first?.instancePath.replaceAll('/', '.').replace(/^\./, '') || 'top level'
    throw new ZenithError('invalid_argument', `${file}: ${where} ${first?.message ?? 'is wrong'}`)
  }
  return Object.assign({ dataDir: dirname(resolve(file)) }, table as Static<T>)
}
