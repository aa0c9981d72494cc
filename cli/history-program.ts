/** The commands about history: what was when; with their options and help. */
import type { Command } from 'commander'
import { example, optionsOf, withTenant } from './command-options.ts'

/** Adds to the command `branch`, which must be there. */
export function addHistoryCommands(program: Command): void {
  const branch = program.commands.find((command) => command.name() === 'branch') as Command
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
