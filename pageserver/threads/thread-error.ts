/** Errors on their way from a thread to another, which cannot be sent as they are. */
import { type ErrorCode, errorMessage, ZenithError } from '#libs/errors.ts'

export interface ThreadError {
  message: string
  /** Of a ZenithError; null for others. */
  code: ErrorCode | null
  hint: string | undefined
  /** Of a system call: `ENOSPC`. */
  errno: string | undefined
  stack: string | undefined
}

export function packError(error: unknown): ThreadError {
  return {
    message: errorMessage(error),
    code: error instanceof ZenithError ? error.code : null,
    hint: error instanceof ZenithError ? error.hint : undefined,
    errno: error instanceof ZenithError ? undefined : (error as NodeJS.ErrnoException)?.code,
    stack: error instanceof Error ? error.stack : undefined,
  }
}

/** An error of the same class, text and stack. */
export function unpackError({ message, code, hint, errno, stack }: ThreadError): Error {
  const error: NodeJS.ErrnoException =
    code === null
      ? new Error(message)
      : new ZenithError(code, message, hint === undefined ? {} : { hint })
  if (code === null && errno !== undefined) error.code = errno
  if (stack !== undefined) error.stack = stack
  return error
}
