/** Branches with their sizes and how far behind they are, as pageservers and safekeepers know. */
import type { BranchDetails } from '#libs/api/lifecycle.ts'
import type { TimelineSizes } from '#libs/api/pageserver-lifecycle.ts'
import { onEach, placesOf } from '../places.ts'
import { pageserverApi } from '../remote.ts'
import type { LifecycleContext } from './lifecycle.ts'
import { childrenOf } from './rules.ts'

/** Of all branches, or of one. Sizes and lag are null where a pageserver does not answer. */
export async function detailsOf(
  { registry, branches, endpoints }: LifecycleContext,
  tenantId: string,
  only?: string,
): Promise<BranchDetails[]> {
  const infos = await branches.list(tenantId)
  const timelines = await registry.timelines(tenantId)
  const computes = await endpoints.records(tenantId)
  const lags = new Map(
    (await branches.timelines(tenantId, only)).map(({ timelineId, lag }) => [timelineId, lag]),
  )
  const places = await placesOf(registry, tenantId)
  const sizesOf = async (timelineId: string): Promise<TimelineSizes | null> => {
    const ask = onEach(places, (place) =>
      pageserverApi.timelineSizes(place, { tenantId, timelineId }),
    )
    return sumOf(await ask.catch(() => []))
  }
  return Promise.all(
    infos
      .filter(({ name }) => only === undefined || name === only)
      .map(async (info) => ({
        ...info,
        children: childrenOf(info.timelineId, timelines).map(({ branch }) => branch),
        endpoints: computes
          .filter(({ timelineId }) => timelineId === info.timelineId)
          .map(({ name, status }) => ({ name, status })),
        sizes: await sizesOf(info.timelineId),
        lag: lags.get(info.timelineId) ?? null,
      })),
  )
}

/** Layers add up over the shards; the first one alone knows what all relations measure. */
function sumOf(shards: readonly TimelineSizes[]): TimelineSizes | null {
  const [first] = shards
  if (first === undefined) return null
  const sum = (of: (one: TimelineSizes) => number) =>
    shards.reduce((total, one) => total + of(one), 0)
  return {
    ...first,
    ownBytes: sum((one) => one.ownBytes),
    adoptedBytes: sum((one) => one.adoptedBytes),
  }
}
