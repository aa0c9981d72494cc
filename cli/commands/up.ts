/**
 * `zenith up`: from a fresh clone to a Postgres, and from a stopped installation to a running one.
 * Every part is skipped when it is done already.
 */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { EndpointInfo } from '#libs/api/endpoint-info.ts'
import { callControl } from '#libs/api/control-client.ts'
import { ZenithError } from '#libs/errors.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { Installation, shownPath } from '../installation/installation.ts'
import { startServices } from '../installation/start-services.ts'
import { CommandContext } from './command-context.ts'
import { initialize, type InitOptions } from './init.ts'
import { connectionUri, DATABASE, startPostgres, SUPERUSER } from './postgres.ts'
import { servicesOf, startReport } from './services.ts'

const BRANCH = 'main'

export async function up(options: InitOptions): Promise<void> {
  const context = new CommandContext(options)
  if (!(await runSetUp(context))) {
    // Set-up has said what is wrong.
    process.exitCode = 1
    return
  }
  const found = Installation.openUnfinished(context.dir)
  if (found === null || !found.settings.initialized) {
    // The JSON of this command is printed once, at its end.
    const output = context.json ? new SilentContext(options) : context
    await initialize(output, options, { keepRunning: true })
  }
  await context.change('zenith up', async (installation, release) => {
    const report = startReport(context)
    await startServices(installation, { ...report, alreadyRunning: () => undefined })
    const info = await ensureRunning(context, installation, release)
    const services = await servicesOf(installation)
    context.show(
      { dir: context.dir, uri: connectionUri(info), services },
      whatNext(installation, info),
    )
  })
}

/** A part of a command whose own data is not what was asked for. */
class SilentContext extends CommandContext {
  override say(): void {}
  override show(): void {}
}

async function ensureRunning(
  context: CommandContext,
  installation: Installation,
  release: () => void,
): Promise<EndpointInfo> {
  const tenantId = context.tenantId(installation)
  const url = installation.controlUrl
  const endpoints = await callControl(url, 'listEndpoints', { params: { tenantId } })
  const running = endpoints.find(({ branch, status }) => branch === BRANCH && status === 'running')
  return running ?? (await startPostgres(context, installation, BRANCH, { release }))
}

function whatNext(installation: Installation, { host, port }: EndpointInfo): string {
  const psql = isOnPath('psql') ? 'psql' : findPostgres().bin('psql')
  const next: [string, string][] = [
    ['branch dev', 'a branch with all the data, in milliseconds'],
    ['pg start dev', 'a Postgres on it'],
    ['pg list', 'where each Postgres listens'],
    ['stop', 'stop everything; "zenith up" goes on from there'],
  ]
  const lines = next.map(([command, what]) => `    zenith ${command.padEnd(14)}${what}`)
  return `
Zenith is running in ${shownPath(installation.dir)}, with a Postgres on branch ${BRANCH}. Connect to it:

    ${psql} -h ${host} -p ${port} -U ${SUPERUSER} ${DATABASE}

Try next:

${lines.join('\n')}
`
}

function runSetUp(context: CommandContext): Promise<boolean> {
  const script = fileURLToPath(new URL('../../scripts/setup.ts', import.meta.url))
  // With --json, standard output is for the data alone; set-up writes to standard error anyhow.
  const child = spawn(process.execPath, [script], {
    stdio: ['ignore', context.json ? 'ignore' : 'inherit', 'inherit'],
  })
  return new Promise((resolve, reject) => {
    child.on('error', (error) =>
      reject(new ZenithError('internal', `Set-up could not be started: ${error.message}`)),
    )
    child.on('exit', (code) => resolve(code === 0))
  })
}

function isOnPath(program: string): boolean {
  const folders = (process.env['PATH'] ?? '').split(delimiter)
  return folders.some((folder) => folder !== '' && existsSync(join(folder, program)))
}
