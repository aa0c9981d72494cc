/** `zenith tenant set` and `zenith tenant show` with their options and help. */
import { type Command, InvalidArgumentError } from 'commander'
import { ZenithError } from '#libs/errors.ts'
import { MAX_SHARD_COUNT } from '#libs/sharding.ts'
import { example, optionsOf, withTenant } from './command-options.ts'
import type { TenantSetOptions } from './commands/tenant-settings.ts'
import { parseBytes, parseDuration } from './quantity.ts'

/** Below that even an empty database would be split, or could not be written to. */
const LEAST_SIZE = 1024 * 1024

/** Adds to the command `tenant`, which must be there. */
export function addTenantSettingsCommands(program: Command): void {
  const tenant = program.commands.find((command) => command.name() === 'tenant') as Command
  withTenant(tenant.command('set'))
    .description(
      'Set how much history is kept: younger than --history, and of that --history-bytes; how large a branch may become; and when the tenant is split by itself',
    )
    .option('--history <time>', 'keep what is younger: 7d, 12h, 30m', checked(parseDuration))
    .option(
      '--history-bytes <size>',
      'of that so much WAL at most: 10GB, or none',
      checked(parseLimit),
    )
    .option(
      '--max-size <size>',
      'what all databases of a branch together may have: 10GB, or none',
      checked(parseSizeLimit),
    )
    .option(
      '--split-size <size>',
      'split shards with more of the largest branch: 64GB, or off',
      checked(parseSplitSize),
    )
    .option(
      '--max-shards <n>',
      'how many it may get by itself, or auto: as many as there are pageservers',
      checked(parseMaxShards),
    )
    .addHelpText(
      'after',
      example(
        'zenith tenant set --history 30d',
        'zenith tenant set --max-size 10GB',
        'zenith tenant set --split-size 64GB --max-shards 8',
        'zenith tenant set --history 7d --history-bytes 10GB',
      ),
    )
    .action(async (_: unknown, command: Command) => {
      const { tenantSet } = await import('./commands/tenant-settings.ts')
      await tenantSet(optionsOf<TenantSetOptions>(command))
    })
  withTenant(tenant.command('show'))
    .description(
      'Show how much history is kept, how far back each branch can be read, how large it may become, its shards and when it is split',
    )
    .addHelpText('after', example('zenith tenant show'))
    .action(async (_: unknown, command: Command) => {
      const { tenantShow } = await import('./commands/tenant-settings.ts')
      await tenantShow(optionsOf(command))
    })
}

function parseLimit(text: string): number | 'none' {
  return text === 'none' ? 'none' : parseBytes(text)
}

function parseSizeLimit(text: string): number | 'none' {
  const limit = parseLimit(text)
  if (limit === 'none' || limit >= LEAST_SIZE) return limit
  throw new ZenithError('invalid_argument', 'It is 1MB or more, or none.')
}

function parseSplitSize(text: string): number | 'off' {
  if (text === 'off') return 'off'
  const bytes = parseBytes(text)
  if (bytes >= LEAST_SIZE) return bytes
  throw new ZenithError('invalid_argument', 'It is 1MB or more, or off.')
}

function parseMaxShards(text: string): number | 'auto' {
  if (text === 'auto') return 'auto'
  const shards = Number(text)
  if (/^\d+$/.test(text) && shards >= 1 && shards <= MAX_SHARD_COUNT) return shards
  throw new ZenithError('invalid_argument', `It is a number from 1 to ${MAX_SHARD_COUNT}, or auto.`)
}

function checked<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text)
    } catch (error) {
      throw new InvalidArgumentError((error as Error).message)
    }
  }
}
