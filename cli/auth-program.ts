/** The commands below `zenith auth`: tokens and keys. */
import type { Command } from 'commander'
import { example, optionsOf, withCommon, withTenant } from './command-options.ts'
import type { CommonOptions } from './commands/command-context.ts'

export function addAuthCommands(program: Command): void {
  const auth = program
    .command('auth')
    .description('Tokens for tools that read WAL, and the keys that sign tokens: token, rotate')
    .addHelpText('after', example('PGPASSWORD=$(zenith auth token) pg_receivewal ...'))
  withTenant(auth.command('token'))
    .argument('[branch]', 'the branch whose WAL it lets read', 'main')
    .description('Print a token that lets read the WAL of a branch for an hour')
    .addHelpText('after', example('PGPASSWORD=$(zenith auth token) pg_receivewal ...'))
    .action(async (branch: string, _: unknown, command: Command) => {
      const { authToken } = await import('./commands/auth.ts')
      await authToken(branch, optionsOf<CommonOptions>(command))
    })
  withCommon(auth.command('rotate'))
    .description('Sign tokens with a new key from now on, and forget keys that are over')
    .addHelpText('after', example('zenith auth rotate'))
    .action(async (_: unknown, command: Command) => {
      const { authRotate } = await import('./commands/auth.ts')
      await authRotate(optionsOf<CommonOptions>(command))
    })
}
