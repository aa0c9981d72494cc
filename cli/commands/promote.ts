/** `zenith pg promote`: a replica takes the place of its branch's primary. */
import type { EndpointInfo } from '#libs/api/endpoint-info.ts'
import { callControl } from '#libs/api/control-client.ts'
import { ZenithError } from '#libs/errors.ts'
import { stopCompute } from '../installation/computes.ts'
import type { Installation } from '../installation/installation.ts'
import { CommandContext, type CommonOptions, requireRunning } from './command-context.ts'
import { connectionString, endpointJson, startPostgres } from './postgres.ts'

/**
 * The primary is stopped first, so that its last commits are there, then the replica is started as
 * the primary, on the same port. Its election makes sure that it has every acknowledged commit, and
 * that whatever may be left of the old primary can commit nothing more. Until the new primary runs
 * the old one can be started again.
 */
export async function pgPromote(name: string, options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  await context.change(`zenith pg promote ${name}`, async (installation, release) => {
    requireRunning(installation)
    const tenantId = context.tenantId(installation)
    const { controlUrl } = installation
    const params = { tenantId, name }
    const replica = await callControl(controlUrl, 'getEndpoint', { params })
    checkReplica(replica)
    const old = await activePrimary(installation, tenantId, replica)
    if (old !== null) {
      context.say(`Stopping postgres ${old.name}, the primary of ${replica.branch}...`)
      await stopCompute(installation, tenantId, old.name)
    }
    const wasRunning = replica.status === 'running'
    if (wasRunning) await stopCompute(installation, tenantId, name)
    await callControl(controlUrl, 'promoteEndpoint', { params, body: {} })
    let info: EndpointInfo
    try {
      info = await startPostgres(context, installation, name, { release })
    } catch (error) {
      await callControl(controlUrl, 'promoteEndpoint', { params, body: { undo: true } })
      throw new ZenithError(
        'unavailable',
        `Postgres "${name}" could not become the primary: ${error instanceof Error ? error.message : String(error)}`,
        {
          hint:
            old === null
              ? `It is a replica again: zenith pg start ${name}.`
              : `Nothing is lost. Start the old primary again: zenith pg start ${old.name}.`,
          cause: error,
        },
      )
    }
    context.show(
      endpointJson(info),
      `Postgres ${name} is the primary of ${info.branch} now, at '${connectionString(info)}'\n`,
    )
  })
}

function checkReplica({ name, mode, branch, readLsn }: EndpointInfo): void {
  if (mode === 'replica') return
  throw new ZenithError(
    'precondition_failed',
    mode === 'primary'
      ? `Postgres "${name}" is the primary of branch "${branch}" already.`
      : `Postgres "${name}" shows branch "${branch}" at ${readLsn} for ever.`,
    {
      hint:
        mode === 'primary'
          ? `Start it: zenith pg start ${name}.`
          : `To write from there on, make a branch: zenith branch <name> ${branch}@${readLsn}.`,
    },
  )
}

async function activePrimary(
  installation: Installation,
  tenantId: string,
  replica: EndpointInfo,
): Promise<EndpointInfo | null> {
  const params = { tenantId }
  const endpoints = await callControl(installation.controlUrl, 'listEndpoints', { params })
  const found = endpoints.find(
    ({ timelineId, mode, status }) =>
      timelineId === replica.timelineId &&
      mode === 'primary' &&
      (status === 'running' || status === 'starting' || status === 'stopping'),
  )
  return found ?? null
}
