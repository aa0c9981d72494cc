/** `zenith tenant split` with its options and help. */
import type { Command } from 'commander'
import { example, optionsOf, withTenant, withTimeout } from './command-options.ts'
import type { TenantSplitOptions } from './commands/tenant-split.ts'

export interface SplitParsers {
  shards: (text: string) => number
  stripe: (text: string) => number
}

/** Adds to the command `tenant`, which must be there. */
export function addSplitCommand(program: Command, parse: SplitParsers): void {
  const tenant = program.commands.find((command) => command.name() === 'tenant') as Command
  withTimeout(withTenant(tenant.command('split')))
    .description('Split the shards of a tenant into more, while it is read and written')
    .requiredOption(
      '--shards <n>',
      'how many there are to be: a multiple of those now',
      parse.shards,
    )
    .option(
      '--stripe-size <size>',
      'the first time: a multiple of 16MB (the default)',
      parse.stripe,
    )
    .option('--spread', 'spread them over the pageservers even if there are so many already')
    .option('--no-spread', 'leave the new ones where the old ones are')
    .addHelpText(
      'after',
      example('zenith tenant split --shards 2', 'zenith tenant split --shards 8 --json'),
    )
    .action(async (_: unknown, command: Command) => {
      const { tenantSplit } = await import('./commands/tenant-split.ts')
      await tenantSplit(optionsOf<TenantSplitOptions>(command))
    })
}
