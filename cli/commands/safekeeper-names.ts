/** Safekeepers by the names that people use: `sk2`, or just its number. */
import { ZenithError } from '#libs/errors.ts'
import type { Installation } from '../installation/installation.ts'

export function safekeeperName(installation: Installation, id: number): string {
  return installation.settings.safekeepers.find((one) => one.id === id)?.name ?? `sk${id}`
}

export function safekeeperNames(installation: Installation, ids: readonly number[]): string {
  return ids.map((id) => safekeeperName(installation, id)).join(', ')
}

/** Throws `not_found` with the names there are. */
export function safekeeperId(installation: Installation, text: string): number {
  const { safekeepers } = installation.settings
  const found = safekeepers.find(({ id, name }) => name === text || String(id) === text)
  if (found) return found.id
  const known = safekeepers.map(({ name }) => name).join(', ')
  throw new ZenithError('not_found', `There is no safekeeper "${text}".`, {
    hint: `There is ${known}. To add one: zenith safekeeper add.`,
  })
}
