/** The commands about history: how much is kept, and what was when; with their options and help. */
import { type Command, InvalidArgumentError } from 'commander'
import { example, optionsOf, withTenant } from './command-options.ts'
import type { TenantSetOptions } from './commands/history.ts'
import { parseBytes, parseDuration } from './quantity.ts'

/** Adds to the commands `tenant` and `branch`, which must be there. */
export function addHistoryCommands(program: Command): void {
  const tenant = named(program, 'tenant')
  withTenant(tenant.command('set'))
    .description(
      'Set how much history is kept: younger than --history, and of that --history-bytes; and how large a branch may become',
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
      checked(parseLimit),
    )
    .addHelpText(
      'after',
      example(
        'zenith tenant set --history 30d',
        'zenith tenant set --max-size 10GB',
        'zenith tenant set --history 7d --history-bytes 10GB',
      ),
    )
    .action(async (_: unknown, command: Command) => {
      const { tenantSet } = await import('./commands/history.ts')
      await tenantSet(optionsOf<TenantSetOptions>(command))
    })
  withTenant(tenant.command('show'))
    .description(
      'Show how much history is kept, how far back each branch can be read, and how large it may become',
    )
    .addHelpText('after', example('zenith tenant show'))
    .action(async (_: unknown, command: Command) => {
      const { tenantShow } = await import('./commands/history.ts')
      await tenantShow(optionsOf(command))
    })
  const branch = named(program, 'branch')
  withTenant(branch.command('lsn'))
    .description('Tell the LSN of a branch at a time')
    .argument('<branch>', 'the branch')
    .argument('<time>', 'as 2026-11-21T15:28:08Z, or as psql shows it')
    .addHelpText('after', example('zenith branch lsn main 2026-11-21T15:28:08Z'))
    .action(async (name: string, time: string, _: unknown, command: Command) => {
      const { branchLsn } = await import('./commands/history.ts')
      await branchLsn(name, time, optionsOf(command))
    })
  withTenant(branch.command('time'))
    .description('Tell when the latest commit up to an LSN of a branch was')
    .argument('<branch>', 'the branch')
    .argument('<lsn>', 'as 0/1609610')
    .addHelpText('after', example('zenith branch time main 0/1609610'))
    .action(async (name: string, lsn: string, _: unknown, command: Command) => {
      const { branchTime } = await import('./commands/history.ts')
      await branchTime(name, lsn, optionsOf(command))
    })
}

function named(program: Command, name: string): Command {
  return program.commands.find((command) => command.name() === name) as Command
}

function parseLimit(text: string): number | 'none' {
  return text === 'none' ? 'none' : parseBytes(text)
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
