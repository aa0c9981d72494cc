/**
 * The one shape of every process: build, run, wait for a signal, stop in reverse order of building.
 * A part registers how it stops when it starts, so a half-built process stops cleanly too.
 */
import { flushCompileCache } from 'node:module'
import { createLogger, type Logger } from './log.ts'

export interface RunningProcess {
  readonly log: Logger
  /** Registers a stop step; steps run in reverse order of registration, one after another. */
  onStop(step: () => Promise<void> | void): void
  /** Ends the process as a signal would, with the given exit code. */
  stop(exitCode: number): void
}

/**
 * Runs a process until SIGTERM or SIGINT, then exits 0. An error in `start`, in a stop step, or one
 * that nobody caught is logged as fatal and ends the process with 1: state on disk is made to
 * survive that, and going on after an unknown failure is not.
 */
export function runProcess(name: string, start: (process: RunningProcess) => Promise<void>): void {
  const log = createLogger(name)
  const steps: (() => Promise<void> | void)[] = []
  let stopping = false

  const die = (error: unknown, message: string) => {
    log.fatal({ err: error }, message)
    process.exit(1)
  }
  const stop = async (exitCode: number) => {
    if (stopping) return
    stopping = true
    for (const step of steps.reverse()) await step()
    log.info('stopped')
    process.exit(exitCode)
  }
  const requestStop = (exitCode: number) => {
    stop(exitCode).catch((error: unknown) => die(error, 'stopping failed'))
  }

  process.on('uncaughtException', (error) => die(error, 'uncaught error'))
  process.on('unhandledRejection', (error) => die(error, 'unhandled rejection'))
  process.on('SIGTERM', () => requestStop(0))
  process.on('SIGINT', () => requestStop(0))
  start({ log, onStop: (step) => steps.push(step), stop: requestStop }).then(
    // The next start finds its code compiled even when this process is killed, not stopped.
    flushCompileCache,
    (error: unknown) => die(error, 'start failed'),
  )
}
