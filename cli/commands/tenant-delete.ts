/** `zenith tenant delete`. */
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { callControl } from '#libs/api/control-client.ts'
import { ZenithError } from '#libs/errors.ts'
import { computeOf, removeComputeDir } from '../installation/computes.ts'
import type { Installation } from '../installation/installation.ts'
import { stopProcess } from '../installation/service-process.ts'
import { CommandContext, type CommonOptions, requireRunning } from './command-context.ts'
import { tenantNamed } from './pageserver-names.ts'

export interface TenantDeleteOptions extends CommonOptions {
  readonly force?: boolean
  readonly evenProtected?: boolean
  readonly evenDefault?: boolean
}

/** Computes are stopped, and objects leave storage, before the answer comes. */
const TIMEOUT_MS = 240_000

export async function tenantDelete(name: string, options: TenantDeleteOptions): Promise<void> {
  const context = new CommandContext(options)
  await context.change('zenith tenant delete', async (installation) => {
    requireRunning(installation)
    const tenantId = tenantNamed(installation, name)
    const isDefault = tenantId === installation.settings.defaultTenant
    if (isDefault && options.evenDefault !== true) {
      throw new ZenithError('conflict', `Tenant ${tenantId} is the one that commands use.`, {
        hint: 'Let them use another one first (zenith tenant create --set-default), or add --even-default.',
      })
    }
    const deletion = await callControl(installation.controlUrl, 'deleteTenant', {
      params: { tenantId },
      query: {
        ...(options.force ? { force: 'true' } : {}),
        ...(options.evenProtected ? { evenProtected: 'true' } : {}),
      },
      timeoutMs: TIMEOUT_MS,
    })
    await removeComputes(installation, tenantId)
    const lines = [
      deletion.state === 'deleted'
        ? `Deleted tenant ${tenantId}. Nothing of it is left.`
        : `Tenant ${tenantId} is gone for its users. What is left of it goes by itself: ${deletion.reason}.\nIt has gone when it is not listed any more: zenith tenant list`,
    ]
    if (isDefault) lines.push('Commands need a tenant now: zenith tenant create --set-default')
    context.show(deletion, `${lines.join('\n')}\n`)
  })
}

/** The processes have ended or are about to; nothing of their folders is of use to anybody. */
async function removeComputes(installation: Installation, tenantId: string): Promise<void> {
  const folder = join(installation.computesDir, tenantId)
  if (!existsSync(folder)) return
  for (const endpoint of readdirSync(folder)) {
    await stopProcess(computeOf(installation, tenantId, endpoint))
    removeComputeDir(installation, tenantId, endpoint)
  }
  rmSync(folder, { recursive: true, force: true })
}
