/** The command that deletes a tenant, with its options and help. */
import type { Command } from 'commander'
import { example, optionsOf, withCommon } from './command-options.ts'
import type { TenantDeleteOptions } from './commands/tenant-delete.ts'

/** Adds it below `zenith tenant`. */
export function addTenantDeleteCommand(tenant: Command): void {
  withCommon(tenant.command('delete'))
    .description('Delete a tenant for good: its branches, their history, and its Postgres servers')
    .argument('<tenant>', 'the tenant, or "default"')
    .option('--force', 'stop its Postgres servers first')
    .option('--even-protected', 'even with branches that are protected')
    .option('--even-default', 'even the tenant that commands use without --tenant')
    .addHelpText(
      'after',
      example(
        'zenith tenant delete 6f3a1c0de84b52977d60f1b2a3c4d5e6',
        'zenith tenant delete 6f3a1c0de84b52977d60f1b2a3c4d5e6 --force',
      ),
    )
    .action(async (name: string, _: unknown, command: Command) => {
      const { tenantDelete } = await import('./commands/tenant-delete.ts')
      await tenantDelete(name, optionsOf<TenantDeleteOptions>(command))
    })
}
