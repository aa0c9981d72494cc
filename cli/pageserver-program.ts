/** The `zenith pageserver` commands with their options and help. */
import { type Command, InvalidArgumentError } from 'commander'
import { example, optionsOf, withCommon, withTimeout } from './command-options.ts'
import type { MoveOptions, RemoveOptions } from './commands/pageserver.ts'

export function addPageserverCommands(program: Command): void {
  const pageserver = program
    .command('pageserver')
    .description('Pageservers, which serve tenants: list, add, remove, move, warm, abort')
    .addHelpText('after', example('zenith pageserver list', 'zenith pageserver add'))
  withCommon(pageserver.command('list'))
    .description('Show the pageservers, where each tenant is, and moves of that')
    .addHelpText('after', example('zenith pageserver list', 'zenith pageserver list --json'))
    .action(async (_: unknown, command: Command) => {
      const { pageserverList } = await import('./commands/pageserver-list.ts')
      await pageserverList(optionsOf(command))
    })
  withCommon(pageserver.command('add'))
    .description('Start one more pageserver on this machine; new tenants may use it at once')
    .addHelpText('after', example('zenith pageserver add'))
    .action(async (_: unknown, command: Command) => {
      const { pageserverAdd } = await import('./commands/pageserver.ts')
      await pageserverAdd(optionsOf(command))
    })
  withTimeout(withCommon(pageserver.command('remove')))
    .description('Move every tenant away from a pageserver, then stop it and take it out')
    .argument('<name>', 'the pageserver')
    .option('--lost', 'it does not come back: others take over what it has, from object storage')
    .option('--undo', 'after one that was broken off: let it take new tenants again')
    .addHelpText(
      'after',
      example('zenith pageserver remove ps2', 'zenith pageserver remove ps2 --lost'),
    )
    .action(async (name: string, _: unknown, command: Command) => {
      const { pageserverRemove } = await import('./commands/pageserver.ts')
      await pageserverRemove(name, optionsOf<RemoveOptions>(command))
    })
  withShard(withTimeout(withCommon(pageserver.command('move'))))
    .description('Move a tenant to another pageserver while it is read and written')
    .argument('<tenant>', 'the tenant, or "default"')
    .argument('<to>', 'the pageserver that takes over')
    .addHelpText('after', example('zenith pageserver move default ps2'))
    .action(async (tenant: string, to: string, _: unknown, command: Command) => {
      const { pageserverMove } = await import('./commands/pageserver.ts')
      await pageserverMove(tenant, to, optionsOf<MoveOptions>(command))
    })
  withShard(withCommon(pageserver.command('warm')))
    .description('Keep a warm copy of a tenant at another pageserver, which takes over quickly')
    .argument('<tenant>', 'the tenant, or "default"')
    .argument('<at>', 'the pageserver that keeps it, or "none"')
    .addHelpText('after', example('zenith pageserver warm default ps2'))
    .action(async (tenant: string, at: string, _: unknown, command: Command) => {
      const { pageserverWarm } = await import('./commands/pageserver.ts')
      await pageserverWarm(tenant, at, optionsOf<MoveOptions>(command))
    })
  withShard(withCommon(pageserver.command('abort')))
    .description('Give up a move before the new pageserver has taken over')
    .argument('<tenant>', 'the tenant, or "default"')
    .addHelpText('after', example('zenith pageserver abort default'))
    .action(async (tenant: string, _: unknown, command: Command) => {
      const { pageserverAbort } = await import('./commands/pageserver.ts')
      await pageserverAbort(tenant, optionsOf<MoveOptions>(command))
    })
}

function withShard(command: Command): Command {
  return command.option('--shard <n>', 'of a sharded tenant: just this one, from 0', parseShard)
}

function parseShard(text: string): number {
  if (/^\d{1,3}$/.test(text)) return Number(text)
  throw new InvalidArgumentError('A shard is a number from 0 on.')
}
