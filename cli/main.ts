/** The zenith command: `./zenith <command>`. */
import { readFileSync } from 'node:fs'
import { enableCompileCache } from 'node:module'

enableCompileCache()

const { CommanderError } = await import('commander')
const { ZenithError } = await import('#libs/errors.ts')
const { buildProgram } = await import('./program.ts')
const { EXIT, reportFailure } = await import('./output/failure.ts')

const packageFile = new URL('../package.json', import.meta.url)
const { version } = JSON.parse(readFileSync(packageFile, 'utf8')) as { version: string }

const program = buildProgram(version)
program.option('--dir <folder>', 'the installation (default: $ZENITH_DIR, else .zenith)')
program.option('--json', 'print data, and errors, as JSON')

// A reader that has seen enough (`zenith pg list | head -1`) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit()
  throw error
})

const json = process.argv.includes('--json')
try {
  for (const command of allCommands(program)) {
    command.exitOverride()
    // With --json even a wrong command line is answered in JSON, below.
    if (json) command.configureOutput({ writeErr: () => undefined })
  }
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) {
    // Commander has printed its message already; help and version are no failures.
    process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage
    const message = error.message.replace(/^error: /, '')
    if (json && error.exitCode !== 0) {
      reportFailure(new ZenithError('invalid_argument', message), { json })
    }
  } else {
    process.exitCode = reportFailure(error, { json })
  }
}
// Connections that are kept for reuse must not hold up the prompt.
process.exit()

function* allCommands(command: typeof program): Generator<typeof program> {
  yield command
  for (const child of command.commands) yield* allCommands(child)
}
