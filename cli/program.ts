/**
 * The commands, their options and help. Each command's code is loaded only when it runs, so that
 * `--help` and small commands start fast.
 */
import { Command, InvalidArgumentError } from 'commander'
import { addAuthCommands } from './auth-program.ts'
import { addBranchLifeCommands } from './branch-program.ts'
import { example, optionsOf, withCommon, withTenant } from './command-options.ts'
import type { CommonOptions } from './commands/command-context.ts'
import type { InitOptions } from './commands/init.ts'
import type { CreateOptions, PlaceOptions } from './commands/postgres.ts'
import type { SetOptions } from './commands/settings.ts'
import { addHistoryCommands } from './history-program.ts'
import { addSplitCommand } from './split-program.ts'
import { addPageserverCommands } from './pageserver-program.ts'
import { addSafekeeperCommands } from './safekeeper-program.ts'
import { addStorageCommands } from './storage-program.ts'
import { addTenantDeleteCommand } from './tenant-program.ts'
import { addTenantSettingsCommands } from './tenant-settings-program.ts'
import { addTransferCommands } from './transfer-program.ts'
import { asTyped } from './output/failure.ts'
import { parseBytes } from './quantity.ts'
import { MAX_SHARD_COUNT, MAX_STRIPE_BLOCKS } from '#libs/sharding.ts'

const EXIT_CODES = `
Exit codes:
  0 success, 1 failure, 2 wrong usage, 3 not found (or, for status, stopped),
  4 refused as things are, 5 timeout`

const MAX_SAFEKEEPERS = 9
const MAX_PAGESERVERS = 64
const HELP_WIDTH = 96
const BLOCK_BYTES = 8192

export function buildProgram(version: string): Command {
  const program = new Command('zenith')
    .description('Serverless Postgres: storage apart from compute, branches in milliseconds')
    .version(version)
    .showSuggestionAfterError()
    .showHelpAfterError(
      asTyped('"zenith --help" lists the commands, "zenith <command> --help" explains one.'),
    )
    .configureHelp({ helpWidth: HELP_WIDTH, subcommandTerm: termOf })
    .addHelpText(
      'after',
      `
All state is in one folder: --dir, else ZENITH_DIR, else .zenith in the current folder.
${EXIT_CODES}

Example:
  zenith up                           set up, start, and print how to connect
  zenith branch migration_check main  branch the database
  zenith pg start migration_check     a Postgres on the branch`,
    )
  addServiceCommands(program)
  addTenantCommands(program)
  addPostgresCommands(program)
  addBranchCommands(program)
  addTransferCommands(program)
  addTenantSettingsCommands(program)
  addHistoryCommands(program)
  addSplitCommand(program, { shards: parseShards, stripe: parseStripe })
  addSafekeeperCommands(program)
  addStorageCommands(program)
  addPageserverCommands(program)
  addAuthCommands(program)
  return program
}

function addServiceCommands(program: Command): void {
  withPorts(withCommon(program.command('up')))
    .description('Set up this machine, start everything, and print how to connect')
    .addHelpText('after', example('zenith up'))
    .action(async (_: unknown, command: Command) => {
      const { up } = await import('./commands/up.ts')
      await up(optionsOf<InitOptions>(command))
    })
  withPorts(withCommon(program.command('init')))
    .description('Make an installation: its folder, a first tenant, and branch main')
    .addHelpText('after', example('zenith init --safekeepers 3', 'zenith --dir /srv/z2 init'))
    .action(async (_: unknown, command: Command) => {
      const { init } = await import('./commands/init.ts')
      await init(optionsOf<InitOptions>(command))
    })
  withCommon(program.command('start'))
    .description('Start control plane, safekeepers and pageservers')
    .addHelpText('after', example('zenith start'))
    .action(async (_: unknown, command: Command) => {
      const { start } = await import('./commands/services.ts')
      await start(optionsOf(command))
    })
  withCommon(program.command('stop'))
    .description('Stop every Postgres, then the services')
    .option('--immediate', 'kill instead of stopping cleanly; committed data survives')
    .addHelpText('after', example('zenith stop'))
    .action(async (_: unknown, command: Command) => {
      const { stop } = await import('./commands/services.ts')
      await stop(optionsOf<CommonOptions & { immediate?: boolean }>(command))
    })
  withCommon(program.command('status'))
    .description('Show what runs, and the end of the log of what has crashed')
    .addHelpText(
      'after',
      `${example('zenith status', 'zenith status --json')}
Exit code: 0 all runs, 1 something has crashed or does not answer, 3 all is stopped`,
    )
    .action(async (_: unknown, command: Command) => {
      const { status } = await import('./commands/services.ts')
      await status(optionsOf(command))
    })
}

function addTenantCommands(program: Command): void {
  const tenant = program
    .command('tenant')
    .description(
      'Tenants, which share nothing but the services: create, list, delete, set, show, split',
    )
    .addHelpText('after', example('zenith tenant list'))
  withCommon(tenant.command('create'))
    .description('Create a tenant with its branch main')
    .argument('[id]', '32 hex digits; made up when absent')
    .option('--set-default', 'use it in commands without --tenant')
    .option('--shards <n>', 'over how many pageservers its tables are spread', parseShards, 1)
    .option('--stripe-size <size>', 'what of a table stays together (default: 16MB)', parseStripe)
    .addHelpText(
      'after',
      example('zenith tenant create --set-default', 'zenith tenant create --shards 4'),
    )
    .action(async (id: string | undefined, _: unknown, command: Command) => {
      const { tenantCreate } = await import('./commands/tenant.ts')
      await tenantCreate(id, optionsOf(command))
    })
  withCommon(tenant.command('list'))
    .description('List tenants')
    .addHelpText('after', example('zenith tenant list'))
    .action(async (_: unknown, command: Command) => {
      const { tenantList } = await import('./commands/tenant.ts')
      await tenantList(optionsOf(command))
    })
  addTenantDeleteCommand(tenant)
}

function addPostgresCommands(program: Command): void {
  const pg = program
    .command('pg')
    .description(
      'Postgres servers, one per branch: start, stop, list, create, destroy, set, settings, promote',
    )
    .addHelpText('after', example('zenith pg start main', 'zenith pg list'))
  withPlace(withTenant(pg.command('start')))
    .description('Start a Postgres; one that is new is made on the branch of the same name')
    .argument('[name]', 'the Postgres', 'main')
    .addHelpText('after', example('zenith pg start main', 'zenith pg start check --branch dev'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { pgStart } = await import('./commands/postgres.ts')
      await pgStart(name, optionsOf<PlaceOptions>(command))
    })
  withTenant(pg.command('stop'))
    .description('Stop a Postgres cleanly')
    .argument('<name>', 'the Postgres')
    .addHelpText('after', example('zenith pg stop main'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { pgStop } = await import('./commands/postgres.ts')
      await pgStop(name, optionsOf(command))
    })
  withTenant(pg.command('promote'))
    .description('Make a replica the primary of its branch, in the place of the one that is it now')
    .argument('<name>', 'the replica')
    .addHelpText('after', example('zenith pg promote reports'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { pgPromote } = await import('./commands/promote.ts')
      await pgPromote(name, optionsOf(command))
    })
  withTenant(pg.command('list'))
    .description('List every Postgres with its branch, address, LSN and status')
    .addHelpText('after', example('zenith pg list', 'zenith pg list --json'))
    .action(async (_: unknown, command: Command) => {
      const { pgList } = await import('./commands/postgres.ts')
      await pgList(optionsOf(command))
    })
  withPlace(withTenant(pg.command('create')))
    .description('Make a Postgres on a branch without starting it')
    .argument('<name>', 'the Postgres')
    .option('--set <name=value>', 'a setting of this Postgres; may be repeated', addSetting)
    .addHelpText(
      'after',
      example(
        'zenith pg create check --branch dev --port 55440',
        'zenith pg create before --branch main --lsn 0/1609610',
        'zenith pg create reports --branch main --replica',
        'zenith pg create check --branch dev --set shared_buffers=1GB --set work_mem=64MB',
      ),
    )
    .action(async (name: string, _: unknown, command: Command) => {
      const { pgCreate } = await import('./commands/postgres.ts')
      await pgCreate(name, optionsOf<CreateOptions>(command))
    })
  addSettingCommands(pg)
  withTenant(pg.command('destroy'))
    .description('Remove a stopped Postgres; its branch and all data stay')
    .argument('<name>', 'the Postgres')
    .addHelpText('after', example('zenith pg destroy check'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { pgDestroy } = await import('./commands/postgres.ts')
      await pgDestroy(name, optionsOf(command))
    })
}

function addSettingCommands(pg: Command): void {
  withTenant(pg.command('set'))
    .description('Change settings of a Postgres; one that runs takes them at once if it can')
    .argument('<name>', 'the Postgres')
    .argument('[name=value...]', 'settings; name=default puts one back')
    .option('--reset <setting>', 'put a setting back to its default; may be repeated', addName)
    .option('--reset-all', 'put all settings back to their defaults')
    .addHelpText(
      'after',
      example(
        'zenith pg set main work_mem=64MB shared_preload_libraries=pg_stat_statements',
        'zenith pg set main --reset work_mem',
      ),
    )
    .action(async (name: string, words: string[], _: unknown, command: Command) => {
      const { pgSet } = await import('./commands/settings.ts')
      await pgSet(name, words, optionsOf<SetOptions>(command))
    })
  withTenant(pg.command('settings'))
    .description('Show the settings of a Postgres, and where each was made')
    .argument('<name>', 'the Postgres')
    .addHelpText('after', example('zenith pg settings main', 'zenith pg settings main --json'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { pgSettings } = await import('./commands/settings.ts')
      await pgSettings(name, optionsOf(command))
    })
}

function addBranchCommands(program: Command): void {
  const branches = withTenant(program.command('branch'))
    .description('Show the branches as a tree, or make a new one')
    .argument('[name]', 'the new branch')
    .argument(
      '[from]',
      'where it starts: a branch, or branch@lsn or branch@time for an earlier state',
      'main',
    )
    .option(
      '--drop-subscriptions',
      'the new branch starts without the subscriptions of the old one',
    )
    .addHelpText(
      'after',
      example(
        'zenith branch',
        'zenith branch dev',
        'zenith branch before main@0/1609610',
        'zenith branch noon main@2026-11-21T12:00:00Z',
      ),
    )
    .action(async (name: string | undefined, from: string, _: unknown, command: Command) => {
      const { branch } = await import('./commands/branch.ts')
      await branch(name, from, optionsOf(command))
    })
  addBranchLifeCommands(branches)
  const timeline = program
    .command('timeline')
    .description('Timelines, the histories behind the branches: list')
    .addHelpText('after', example('zenith timeline list'))
  withTenant(timeline.command('list'))
    .description('List timelines with where each stands')
    .addHelpText('after', example('zenith timeline list'))
    .action(async (_: unknown, command: Command) => {
      const { timelineList } = await import('./commands/timeline.ts')
      await timelineList(optionsOf(command))
    })
}

function withPlace(command: Command): Command {
  return command
    .option('--branch <name>', 'its branch (default: the branch of the same name)')
    .option('--port <port>', 'its port (default: the next free one from 55432 on)', parsePort)
    .option('--lsn <lsn>', 'read-only: the branch (default: main) as of an LSN, or its "end" now')
    .option('--at <time|lsn>', 'read-only: the branch (default: main) as it was at that time')
    .option('--replica', 'read-only: follow the branch (default: main) as a hot standby')
}

function withPorts(command: Command): Command {
  return command
    .option('--safekeepers <n>', 'how many safekeepers keep the WAL', parseSafekeepers, 1)
    .option('--pageservers <n>', 'how many pageservers serve tenants', parsePageservers, 1)
    .option('--pageserver-port <port>', 'pages, of the first one (default: 64000)', parsePort)
    .option('--pageserver-http-port <port>', 'HTTP, of the first one (default: 9898)', parsePort)
    .option('--safekeeper-port <port>', 'WAL, of the first one (default: 5454)', parsePort)
    .option('--safekeeper-http-port <port>', 'HTTP, of the first one (default: 7676)', parsePort)
    .option(
      '--etcd <url...>',
      'keep records in this etcd and let services find each other by it (default: none needed)',
      parseEtcd,
    )
    .option('--control-port <port>', 'control plane HTTP (default: 9090)', parsePort)
    .option('--postgres-port <port>', 'the first Postgres (default: 55432)', parsePort)
    .option('--tls', 'encrypt connections to safekeepers, with certificates made for it')
    .option('--storage <url>', 'keep layers and WAL in a bucket: s3://bucket/prefix')
    .option('--s3-endpoint <url>', 'the server of the bucket (default: Amazon S3)')
    .option('--s3-region <name>', 'the region of the bucket (default: AWS_REGION)')
    .option('--s3-path-style', 'name the bucket in the path (default with an endpoint)')
}

/** How a list of commands names one: without its options, which its own help shows. */
function termOf(command: Command): string {
  if (command.commands.length > 0) return `${command.name()} <command>`
  const args = command.registeredArguments.map((one) => {
    const name = one.name()
    return one.required ? `<${name}>` : `[${name}]`
  })
  return [command.name(), ...args].join(' ')
}

function addName(name: string, before: string[] = []): string[] {
  return [...before, name]
}

function addSetting(word: string, before: Record<string, string> = {}): Record<string, string> {
  const at = word.indexOf('=')
  if (at > 0) return { ...before, [word.slice(0, at).trim()]: word.slice(at + 1) }
  throw new InvalidArgumentError('A setting is written as name=value.')
}

function parsePort(text: string): number {
  const port = Number(text)
  if (/^\d+$/.test(text) && port >= 1 && port <= 65535) return port
  throw new InvalidArgumentError('A port is a number from 1 to 65535.')
}

/** One or more addresses; commander calls it once for each. */
function parseEtcd(text: string, before: readonly string[] = []): string[] {
  const url = URL.parse(text)
  if (url?.protocol === 'http:') return [...before, url.origin]
  throw new InvalidArgumentError('An address of etcd looks like http://127.0.0.1:2379.')
}

function parseShards(text: string): number {
  const count = Number(text)
  if (/^\d+$/.test(text) && count >= 1 && count <= MAX_SHARD_COUNT) return count
  throw new InvalidArgumentError(`Between 1 and ${MAX_SHARD_COUNT} shards are possible.`)
}

/** In blocks of 8 KiB. */
function parseStripe(text: string): number {
  const blocks = parseBytes(text) / BLOCK_BYTES
  if (Number.isInteger(blocks) && blocks >= 1 && blocks <= MAX_STRIPE_BLOCKS) return blocks
  throw new InvalidArgumentError('A stripe is a multiple of 8kB, of 8 GB at most.')
}

function parsePageservers(text: string): number {
  const count = Number(text)
  if (/^\d+$/.test(text) && count >= 1 && count <= MAX_PAGESERVERS) return count
  throw new InvalidArgumentError(`Between 1 and ${MAX_PAGESERVERS} pageservers are possible.`)
}

function parseSafekeepers(text: string): number {
  const count = Number(text)
  if (/^\d+$/.test(text) && count >= 1 && count <= MAX_SAFEKEEPERS) return count
  throw new InvalidArgumentError(`Between 1 and ${MAX_SAFEKEEPERS} safekeepers are possible.`)
}
