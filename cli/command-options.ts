/** What the commands' options and help texts have in common. */
import { type Command, InvalidArgumentError } from 'commander'
import type { CommonOptions } from './commands/command-context.ts'

const DEFAULT_TIMEOUT_S = 600

/** Options of every command. They are also taken before the command's name. */
export function withCommon(command: Command): Command {
  return command
    .option('--dir <folder>', 'the installation (default: $ZENITH_DIR, else .zenith)')
    .option('--json', 'print data, and errors, as JSON')
}

/** Options of commands about a tenant's things. */
export function withTenant(command: Command): Command {
  return withCommon(command).option('--tenant <id>', 'the tenant (default: the one init made)')
}

/** For commands that wait until a change is through. */
export function withTimeout(command: Command): Command {
  return command.option(
    '--timeout <seconds>',
    'how long to wait; what has begun goes on after that',
    parseSeconds,
    DEFAULT_TIMEOUT_S,
  )
}

/** All options of a command, those given before its name included. */
export function optionsOf<T extends CommonOptions>(command: Command): T {
  return command.optsWithGlobals<T & Record<string, unknown>>()
}

/** The end of a help text. */
export function example(...lines: string[]): string {
  return `\nExample:\n${lines.map((line) => `  ${line}`).join('\n')}`
}

function parseSeconds(text: string): number {
  const seconds = Number(text)
  if (/^\d+$/.test(text) && seconds >= 1) return seconds
  throw new InvalidArgumentError('A time limit is a number of seconds.')
}
