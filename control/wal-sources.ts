/** Where a pageserver gets a timeline's WAL: from its safekeepers, or from the stock server it follows. */
import type { PostgresSource, WalSource } from '#libs/api/control.ts'
import type { TimelineRecord } from './records.ts'
import type { Registry } from './registry.ts'

const SOURCE_ID = 1

export function followedSource({
  server,
  slot,
}: NonNullable<TimelineRecord['follows']>): PostgresSource {
  return { kind: 'postgres', id: SOURCE_ID, slot, ...server }
}

export async function walSourcesOf(
  registry: Registry,
  timeline: TimelineRecord,
): Promise<WalSource[]> {
  if (timeline.follows !== undefined) return [followedSource(timeline.follows)]
  return await registry.members(timeline)
}
