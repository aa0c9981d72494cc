/** Discovery from a service's settings. */
import { type Static, Type } from 'typebox'
import type { Logger } from '../log.ts'
import type { Discovery } from './discovery.ts'
import { EmbeddedDiscovery } from './embedded-discovery.ts'
import { EtcdDiscovery } from './etcd-discovery.ts'
import { EtcdSettings } from '../etcd/etcd-client.ts'

export const DiscoveryConfig = Type.Union([
  Type.Object(
    {
      kind: Type.Literal('embedded'),
      /** Address of the control plane, which has the hub. */
      url: Type.String({ minLength: 1 }),
    },
    { additionalProperties: false },
  ),
  EtcdSettings,
])
export type DiscoveryConfig = Static<typeof DiscoveryConfig>

export function openDiscovery(
  config: DiscoveryConfig,
  options: { log: Logger; token?: () => Promise<string | null> },
): Discovery {
  if (config.kind === 'embedded') return new EmbeddedDiscovery({ url: config.url, ...options })
  return new EtcdDiscovery(config, options.log)
}
