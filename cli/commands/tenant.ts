/** `zenith tenant create` and `zenith tenant list`. */
import { callControl } from '#libs/api/control-client.ts'
import type { TenantInfo } from '#libs/api/control.ts'
import { newTenantId, parseTenantId } from '#libs/ids.ts'
import { formatTable } from '../output/table.ts'
import { CommandContext, type CommonOptions, requireRunning } from './command-context.ts'

const CREATE_TIMEOUT_MS = 180_000

export async function tenantCreate(
  id: string | undefined,
  options: CommonOptions & { setDefault?: boolean; shards: number; stripeSize?: number },
): Promise<void> {
  const context = new CommandContext(options)
  const tenantId = id === undefined ? newTenantId() : parseTenantId(id)
  await context.change('zenith tenant create', async (installation) => {
    requireRunning(installation)
    const tenant = await callControl(installation.controlUrl, 'createTenant', {
      body: {
        tenantId,
        shards: options.shards,
        ...(options.stripeSize === undefined ? {} : { stripeBlocks: options.stripeSize }),
      },
      timeoutMs: CREATE_TIMEOUT_MS,
    })
    if (options.setDefault === true) {
      installation.settings.defaultTenant = tenantId
      installation.save()
    }
    const isDefault = options.setDefault === true ? ', now the default' : ''
    context.show(
      tenant,
      `Created tenant ${tenantId}${isDefault}\n` +
        `Created initial timeline ${tenant.mainTimelineId}, branch main\n` +
        spreadOver(tenant),
    )
  })
}

function spreadOver({ shardCount, placements }: TenantInfo): string {
  if (shardCount === 0) return ''
  const ids = [...new Set(placements.map(({ pageserverId }) => pageserverId))].sort((a, b) => a - b)
  const where = ids.length === 1 ? `pageserver ${ids[0]}` : `pageservers ${ids.join(', ')}`
  return `Its tables are spread over ${shardCount} shards on ${where}\n`
}

export async function tenantList(options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const tenants = await callControl(installation.controlUrl, 'listTenants')
  const { defaultTenant } = installation.settings
  const isDefault = (tenantId: string): boolean => tenantId === defaultTenant
  context.show(
    tenants.map((tenant) => ({ ...tenant, default: isDefault(tenant.tenantId) })),
    formatTable(
      ['TENANT', 'STATE', 'SHARDS', 'CREATED', 'DEFAULT'],
      tenants.map(({ tenantId, state, shardCount, createdAt }) => [
        tenantId,
        state,
        String(Math.max(shardCount, 1)),
        createdAt,
        isDefault(tenantId) ? 'yes' : '',
      ]),
    ),
  )
}
