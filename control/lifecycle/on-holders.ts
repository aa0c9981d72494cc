/**
 * Changes that pageservers make durable themselves. A pageserver that takes over in the middle has
 * read what was there before, so whatever the one before it was told is told to it again.
 */
import { ZenithError } from '#libs/errors.ts'
import { onEach, type Place, placesOf } from '../places.ts'
import type { Registry } from '../registry.ts'

const MAX_ATTEMPTS = 10

/** Asks the newest holders, until they are the same before and after. `ask` can be repeated. */
export async function onHolders<T>(
  registry: Registry,
  tenantId: string,
  ask: (place: Place) => Promise<T>,
): Promise<T[]> {
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const places = await placesOf(registry, tenantId)
    const answers = await onEach(places, ask)
    const after = await placesOf(registry, tenantId)
    // The generation is stored before a new holder may read anything.
    if (after.length === places.length && after.every((place, at) => isSame(place, places[at]))) {
      return answers
    }
  }
  throw new ZenithError('unavailable', `Tenant ${tenantId} is just being moved.`, {
    hint: 'Try again in a moment.',
  })
}

function isSame(place: Place, other: Place | undefined): boolean {
  return place.id === other?.id && place.generation === other.generation
}
