/** The commands that carry whole clusters in and out, with their options and help. */
import type { Command } from 'commander'
import { example, optionsOf, withTenant } from './command-options.ts'
import type { ExportOptions } from './commands/export.ts'

export function addTransferCommands(program: Command): void {
  withTenant(program.command('export'))
    .description('Write a branch as a data folder that stock Postgres 17 starts')
    .argument('<branch>', 'a branch, branch@lsn or branch@time')
    .argument('<target>', 'the folder to make, or with --format tar a file ("-": standard output)')
    .option('--format <format>', 'plain or tar (default: plain)')
    .option('--checksums <on|off>', 'data checksums (default: as the cluster was made)')
    .option('--no-sync', 'do not wait until the files are safe on disk')
    .addHelpText(
      'after',
      example(
        'zenith export main /srv/copy',
        'zenith export main@0/1609610 copy.tar --format tar',
        'zenith export main@2026-11-21T15:28:08Z /srv/then --checksums on',
      ),
    )
    .action(async (branch: string, target: string, _: unknown, command: Command) => {
      const { exportBranch } = await import('./commands/export.ts')
      await exportBranch(branch, target, optionsOf<ExportOptions>(command))
    })
}
