/** `zenith tenant create` and `zenith tenant list`. */
import { callControl } from '#libs/api/control-client.ts'
import { newTenantId, parseTenantId } from '#libs/ids.ts'
import { formatTable } from '../output/table.ts'
import { CommandContext, type CommonOptions, requireRunning } from './command-context.ts'

const CREATE_TIMEOUT_MS = 180_000

export async function tenantCreate(
  id: string | undefined,
  options: CommonOptions & { setDefault?: boolean },
): Promise<void> {
  const context = new CommandContext(options)
  const tenantId = id === undefined ? newTenantId() : parseTenantId(id)
  await context.change('zenith tenant create', async (installation) => {
    requireRunning(installation)
    const tenant = await callControl(installation.controlUrl, 'createTenant', {
      body: { tenantId },
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
        `Created initial timeline ${tenant.mainTimelineId}, branch main\n`,
    )
  })
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
      ['TENANT', 'STATE', 'CREATED', 'DEFAULT'],
      tenants.map(({ tenantId, state, createdAt }) => [
        tenantId,
        state,
        createdAt,
        isDefault(tenantId) ? 'yes' : '',
      ]),
    ),
  )
}
