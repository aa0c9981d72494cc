/** Settings as Postgres reads and writes them in its configuration files. Pure. */
import { ZenithError } from '#libs/errors.ts'

/** What Postgres takes for the name of a setting (valid_custom_variable_name in guc.c). */
const NAME = /^[a-z_][a-z0-9_$]*(\.[a-z_][a-z0-9_$]*)*$/i
const LINE = /^([A-Za-z_][\w$.]*)\s*=?\s*'((?:[^'\\]|''|\\.)*)'/

/**
 * `name = 'value'`, quoted as guc-file.l reads it: a quote is doubled, a backslash too. Throws
 * `invalid_argument` for what cannot be a setting's name or fit on a line.
 */
export function settingLine(name: string, value: string): string {
  if (!NAME.test(name) || /[\n\r\0]/.test(value)) {
    throw new ZenithError(
      'invalid_argument',
      `"${name}" cannot be set to ${JSON.stringify(value)}.`,
    )
  }
  return `${name} = '${value.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
}

/**
 * The settings in a file that ALTER SYSTEM has written (write_auto_conf_file in guc.c): one per
 * line, each value in quotes. A name that occurs twice has its last value, as for Postgres.
 */
export function parseAutoConf(text: string): Record<string, string> {
  const settings = new Map<string, string>()
  for (const line of text.split('\n')) {
    const match = LINE.exec(line)
    if (match === null) continue
    const [, name = '', quoted = ''] = match
    const value = quoted.replace(/''|\\(.)/g, (pair, escaped: string) =>
      pair === "''" ? "'" : escaped,
    )
    settings.set(name.toLowerCase(), value)
  }
  return Object.fromEntries(settings)
}

/** The libraries that `shared_preload_libraries` names, quotes taken off. */
export function libraryNames(list: string): string[] {
  return list
    .split(',')
    .map((name) => name.trim().replace(/^"(.*)"$/, '$1'))
    .filter((name) => name !== '')
}
