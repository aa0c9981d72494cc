/** Pageservers by the names that people use: `pageserver`, `ps2`, or just the number. */
import { ZenithError } from '#libs/errors.ts'
import { parseTenantId } from '#libs/ids.ts'
import type { Installation } from '../installation/installation.ts'

export function pageserverName(installation: Installation, id: number): string {
  return installation.settings.pageservers.find((one) => one.id === id)?.name ?? `ps${id}`
}

/** Throws `not_found` with the names there are. */
export function pageserverId(installation: Installation, text: string): number {
  const { pageservers } = installation.settings
  const found = pageservers.find(
    ({ id, name }) => name === text || String(id) === text || `ps${id}` === text,
  )
  if (found) return found.id
  const known = pageservers.map(({ name }) => name).join(', ')
  throw new ZenithError('not_found', `There is no pageserver "${text}".`, {
    hint: `There is ${known}. To add one: zenith pageserver add.`,
  })
}

/** A tenant's id; `default` stands for the one that init made. */
export function tenantNamed(installation: Installation, text: string): string {
  return text === 'default' ? installation.settings.defaultTenant : parseTenantId(text)
}
