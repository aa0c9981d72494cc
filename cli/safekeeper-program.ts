/** The `zenith safekeeper` commands with their options and help. */
import { type Command, InvalidArgumentError } from 'commander'
import { example, optionsOf, withCommon, withTenant, withTimeout } from './command-options.ts'
import type { ChangeOptions } from './commands/safekeeper.ts'

const MAX_MEMBERS = 9

export function addSafekeeperCommands(program: Command): void {
  const safekeeper = program
    .command('safekeeper')
    .description('Safekeepers, which keep the WAL: list, add, remove, move, spread, repair, abort')
    .addHelpText('after', example('zenith safekeeper list', 'zenith safekeeper spread 3'))
  withCommon(safekeeper.command('list'))
    .description('Show the safekeepers, who keeps which branch, and changes of that')
    .addHelpText('after', example('zenith safekeeper list', 'zenith safekeeper list --json'))
    .action(async (_: unknown, command: Command) => {
      const { safekeeperList } = await import('./commands/safekeeper-list.ts')
      await safekeeperList(optionsOf(command))
    })
  withCommon(safekeeper.command('add'))
    .description('Start one more safekeeper on this machine; new branches may use it at once')
    .addHelpText('after', example('zenith safekeeper add'))
    .action(async (_: unknown, command: Command) => {
      const { safekeeperAdd } = await import('./commands/safekeeper.ts')
      await safekeeperAdd(optionsOf(command))
    })
  withTimeout(withCommon(safekeeper.command('remove')))
    .description('Move every branch away from a safekeeper, then stop it and take it out')
    .argument('<name>', 'the safekeeper')
    .option('--shrink', 'let branches have one safekeeper less where there is no other')
    .option('--force', 'even if it cannot delete its copies: its disk goes')
    .option('--undo', 'after one that was broken off: let it take new branches again')
    .addHelpText('after', example('zenith safekeeper remove sk2'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { safekeeperRemove } = await import('./commands/safekeeper.ts')
      await safekeeperRemove(name, optionsOf<ChangeOptions>(command))
    })
  withTimeout(withTenant(safekeeper.command('move')))
    .description('Replace one safekeeper of a branch by another; its Postgres runs on')
    .argument('<branch>', 'the branch')
    .requiredOption('--from <name>', 'the safekeeper that keeps it now')
    .requiredOption('--to <name>', 'the one that takes over')
    .addHelpText('after', example('zenith safekeeper move main --from sk1 --to sk4'))
    .action(async (branch: string, _: unknown, command: Command) => {
      const { safekeeperMove } = await import('./commands/safekeeper.ts')
      await safekeeperMove(branch, optionsOf<ChangeOptions & { from: string; to: string }>(command))
    })
  withTimeout(withCommon(safekeeper.command('spread')))
    .description('Have every branch kept by so many safekeepers, adding those that are missing')
    .argument('[count]', 'how many', parseCount, 3)
    .addHelpText('after', example('zenith safekeeper spread 3'))
    .action(async (count: number, _: unknown, command: Command) => {
      const { safekeeperSpread } = await import('./commands/safekeeper.ts')
      await safekeeperSpread(count, optionsOf<ChangeOptions>(command))
    })
  withTimeout(withCommon(safekeeper.command('repair')))
    .description('Copy everything anew to a safekeeper that lost its disk, or cannot read it')
    .argument('<name>', 'the safekeeper')
    .addHelpText('after', example('zenith safekeeper repair sk2'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { safekeeperRepair } = await import('./commands/safekeeper.ts')
      await safekeeperRepair(name, optionsOf<ChangeOptions>(command))
    })
  withTenant(safekeeper.command('abort'))
    .description('Undo a change of the safekeepers of a branch that is not in force yet')
    .argument('<branch>', 'the branch')
    .addHelpText('after', example('zenith safekeeper abort main'))
    .action(async (branch: string, _: unknown, command: Command) => {
      const { safekeeperAbort } = await import('./commands/safekeeper.ts')
      await safekeeperAbort(branch, optionsOf(command))
    })
}

function parseCount(text: string): number {
  const count = Number(text)
  if (/^\d+$/.test(text) && count >= 1 && count <= MAX_MEMBERS) return count
  throw new InvalidArgumentError(`Between 1 and ${MAX_MEMBERS} safekeepers are possible.`)
}
