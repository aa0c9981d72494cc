/** The commands that carry whole clusters in and out, with their options and help. */
import type { Command } from 'commander'
import { example, optionsOf, withTenant } from './command-options.ts'
import type { ExportOptions } from './commands/export.ts'
import type { ImportOptions } from './commands/import.ts'

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
  const importing = withTenant(program.command('import'))
    .description('Make a branch of a stock Postgres 17: of a backup, or of a primary that runs on')
    .argument('[name]', 'the new branch')
    .option(
      '--basebackup <path>',
      'a folder or base.tar of pg_basebackup, or a stopped data folder',
    )
    .option('--wal <path>', 'with --basebackup: a folder with more WAL segments, or pg_wal.tar')
    .option('--from <url>', 'a running primary: postgres://user@host:port/ (also PGHOST, ...)')
    .option('--no-follow', 'with --from: take it as it is now, and make the branch writable')
    .option('--no-wait', 'return at once; "zenith import status" tells how far it is')
    .addHelpText(
      'after',
      example(
        'zenith import prod --basebackup /srv/backup/base.tar --wal /srv/archive',
        'zenith import prod --from postgres://replicator@db.example:5432/',
        'zenith branch check prod                 a branch of it, to write to',
        'zenith import stop prod                  follow no more; prod can be written to',
      ),
    )
    .action(async (name: string | undefined, _: unknown, command: Command) => {
      const { importBranch } = await import('./commands/import.ts')
      await importBranch(name, optionsOf<ImportOptions>(command))
    })
  withTenant(importing.command('status'))
    .description('Show how far an import is, or how far behind a branch is that follows')
    .argument('<name>', 'the branch')
    .addHelpText('after', example('zenith import status prod', 'zenith import status prod --json'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { importStatus } = await import('./commands/import.ts')
      await importStatus(name, optionsOf(command))
    })
  withTenant(importing.command('stop'))
    .description('End the following of a primary and drop its slot; or give an import up')
    .argument('<name>', 'the branch')
    .option('--force', 'even if the server does not answer, so that its slot stays there')
    .addHelpText('after', example('zenith import stop prod'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { importStop } = await import('./commands/import.ts')
      await importStop(name, optionsOf<ImportOptions & { force?: boolean }>(command))
    })
}
