/** The `zenith storage` commands with their options and help. */
import type { Command } from 'commander'
import { example, optionsOf, withCommon } from './command-options.ts'
import type { StorageCheckOptions } from './commands/storage-check.ts'

export function addStorageCommands(program: Command): void {
  const storage = program
    .command('storage')
    .description('Object storage, where layers and WAL are kept: check')
    .addHelpText('after', example('zenith storage check'))
  withCommon(storage.command('check'))
    .description('Verify every checksum of what is kept, and list objects that nobody needs')
    .option('--quick', 'only sizes, footers and indexes, not the data')
    .option('--remove-orphans', 'delete what nobody needs, if nothing is damaged')
    .addHelpText(
      'after',
      `${example('zenith storage check', 'zenith storage check --quick --json')}
It may run beside the services, and without them.
Exit code: 0 all is whole, 1 something is missing or damaged`,
    )
    .action(async (_: unknown, command: Command) => {
      const { storageCheck } = await import('./commands/storage-check.ts')
      await storageCheck(optionsOf<StorageCheckOptions>(command))
    })
}
