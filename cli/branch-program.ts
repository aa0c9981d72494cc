/** The commands for the life of branches, with their options and help. */
import type { Command } from 'commander'
import { ZenithError } from '#libs/errors.ts'
import { example, optionsOf, withTenant } from './command-options.ts'
import type { DeleteOptions, ReplaceOptions } from './commands/branch-life.ts'

/** Adds them below `zenith branch`; a branch of such a name is made through HTTP only. */
export function addBranchLifeCommands(branch: Command): void {
  withTenant(branch.command('list'))
    .description('Show the branches as a table, with their sizes')
    .addHelpText('after', example('zenith branch list', 'zenith branch list --json'))
    .action(async (_: unknown, command: Command) => {
      const { branchList } = await import('./commands/branch-life.ts')
      await branchList(optionsOf(command))
    })
  withTenant(branch.command('info'))
    .description('Show one branch: where it comes from, its children, computes and sizes')
    .argument('<name>', 'the branch')
    .addHelpText('after', example('zenith branch info dev'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { branchInfo } = await import('./commands/branch-life.ts')
      await branchInfo(name, optionsOf(command))
    })
  withTenant(branch.command('delete'))
    .description('Delete a branch, its Postgres servers, and all data that only it has')
    .argument('<name>', 'the branch')
    .option('--force', 'stop its Postgres servers first')
    .option('--even-main', 'even the main branch of the tenant')
    .addHelpText('after', example('zenith branch delete dev', 'zenith branch delete dev --force'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { branchDelete } = await import('./commands/branch-life.ts')
      await branchDelete(name, optionsOf<DeleteOptions>(command))
    })
  withTenant(branch.command('rename'))
    .description('Give a branch another name; its Postgres servers run on')
    .argument('<name>', 'the branch')
    .argument('<to>', 'its new name')
    .addHelpText('after', example('zenith branch rename dev feature_x'))
    .action(async (name: string, to: string, _: unknown, command: Command) => {
      checkNewName(branch, to)
      const { branchRename } = await import('./commands/branch-life.ts')
      await branchRename(name, to, optionsOf(command))
    })
  withReplace(withTenant(branch.command('reset')))
    .description('Make a branch show what its parent shows now; what it had is kept aside')
    .argument('<name>', 'the branch')
    .option('--drop-subscriptions', 'start without the subscriptions of the parent')
    .addHelpText('after', example('zenith branch reset dev', 'zenith branch reset dev --discard'))
    .action(async (name: string, _: unknown, command: Command) => {
      const options = optionsOf<ReplaceOptions>(command)
      checkNewName(branch, options.keepAs)
      const { branchReset } = await import('./commands/branch-life.ts')
      await branchReset(name, options)
    })
  withReplace(withTenant(branch.command('restore')))
    .description('Put a branch back to an earlier state of its own; the newer one is kept aside')
    .argument('<name>', 'the branch')
    .argument('<place>', 'an LSN, or a time')
    .addHelpText(
      'after',
      example(
        'zenith branch restore main 0/1609610',
        'zenith branch restore main "2026-11-20 12:00"',
      ),
    )
    .action(async (name: string, place: string, _: unknown, command: Command) => {
      const options = optionsOf<ReplaceOptions>(command)
      checkNewName(branch, options.keepAs)
      const { branchRestore } = await import('./commands/branch-life.ts')
      await branchRestore(name, place, options)
    })
  withTenant(branch.command('detach'))
    .description('Make a branch independent of its parent, which can be deleted then')
    .argument('<name>', 'the branch')
    .addHelpText('after', example('zenith branch detach dev'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { branchDetach } = await import('./commands/branch-life.ts')
      await branchDetach(name, optionsOf(command))
    })
  withTenant(branch.command('archive'))
    .description('Keep a branch in object storage only, until it is brought back')
    .argument('<name>', 'the branch')
    .addHelpText('after', example('zenith branch archive dev'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { branchArchive } = await import('./commands/branch-life.ts')
      await branchArchive(name, optionsOf(command))
    })
  withTenant(branch.command('unarchive'))
    .description('Bring an archived branch back as it was')
    .argument('<name>', 'the branch')
    .addHelpText('after', example('zenith branch unarchive dev'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { branchUnarchive } = await import('./commands/branch-life.ts')
      await branchUnarchive(name, optionsOf(command))
    })
  addProtection(branch)
}

function addProtection(branch: Command): void {
  withTenant(branch.command('protect'))
    .description('Have a branch refuse to be deleted, reset or restored')
    .argument('<name>', 'the branch')
    .addHelpText('after', example('zenith branch protect main'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { branchProtect } = await import('./commands/branch-life.ts')
      await branchProtect(name, true, optionsOf(command))
    })
  withTenant(branch.command('unprotect'))
    .description('Lift the protection of a branch')
    .argument('<name>', 'the branch')
    .addHelpText('after', example('zenith branch unprotect main'))
    .action(async (name: string, _: unknown, command: Command) => {
      const { branchProtect } = await import('./commands/branch-life.ts')
      await branchProtect(name, false, optionsOf(command))
    })
}

/** A branch named as a command could not be made here again. Throws `invalid_argument`. */
function checkNewName(branch: Command, name: string | undefined): void {
  if (!branch.commands.some((command) => command.name() === name)) return
  throw new ZenithError(
    'invalid_argument',
    `"${name}" is a command, as in zenith branch ${name}.`,
    {
      hint: 'Choose another name.',
    },
  )
}

function withReplace(command: Command): Command {
  return command
    .option(
      '--keep-as <name>',
      'the branch that holds the state from before (default: <name>_old_<time>)',
    )
    .option('--discard', 'delete the state from before')
    .option('--no-start', 'leave its Postgres servers stopped')
}
