/** Rules for names of branches and endpoints, and the sentences for names that are wrong. Pure. */
import { NAME_PATTERN } from '#libs/api/schemas.ts'
import { ZenithError } from '#libs/errors.ts'

const NAME = new RegExp(NAME_PATTERN)
const MAX_SUGGESTIONS = 3
const MAX_LISTED = 10

/** Throws `invalid_argument` that states the rule when `name` breaks it. */
export function checkName(kind: 'branch' | 'endpoint', name: string): void {
  if (NAME.test(name)) return
  throw new ZenithError('invalid_argument', `"${name}" cannot be the name of a ${kind}.`, {
    hint: `Names are 1 to 63 lower-case letters, digits, ".", "_" and "-", and start with a letter or digit (${NAME_PATTERN}).`,
  })
}

/** The error for a name that does not exist; its hint lists near matches, or all when few. */
export function unknownName(
  kind: 'branch' | 'endpoint',
  name: string,
  known: readonly string[],
): ZenithError {
  const near = nearMatches(name, known)
  const quoted = (names: readonly string[]) => names.map((one) => `"${one}"`).join(', ')
  const hint =
    near.length > 0
      ? `Did you mean ${quoted(near)}?`
      : known.length === 0
        ? `There is no ${kind} yet.`
        : known.length <= MAX_LISTED
          ? `There are: ${quoted(known)}.`
          : `There are ${known.length}, among them ${quoted(known.slice(0, MAX_LISTED))}.`
  return new ZenithError('not_found', `There is no ${kind} named "${name}".`, { hint })
}

/** Up to three known names that are close to `name`, best first. */
export function nearMatches(name: string, known: readonly string[]): string[] {
  const wanted = name.toLowerCase()
  return known
    .map((candidate) => ({ candidate, distance: distanceOf(wanted, candidate) }))
    .filter(({ distance }) => distance <= Math.max(2, Math.floor(wanted.length / 3)))
    .sort((a, b) => a.distance - b.distance || (a.candidate < b.candidate ? -1 : 1))
    .slice(0, MAX_SUGGESTIONS)
    .map(({ candidate }) => candidate)
}

/** Edit distance (Levenshtein); a shared beginning counts as one edit, for unfinished names. */
function distanceOf(a: string, b: string): number {
  if (a.length >= 3 && b.startsWith(a)) return 1
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let row = 1; row <= a.length; row++) {
    const current = [row]
    for (let column = 1; column <= b.length; column++) {
      const swap = (previous[column - 1] as number) + (a[row - 1] === b[column - 1] ? 0 : 1)
      const insert = (current[column - 1] as number) + 1
      const remove = (previous[column] as number) + 1
      current.push(Math.min(swap, insert, remove))
    }
    previous = current
  }
  return previous[b.length] as number
}
