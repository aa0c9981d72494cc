/** Requests to the acceptor that are answered once what they ask for is durable. */
import { ZenithError } from '#libs/errors.ts'

export class TimelineRequests {
  #counter = 0
  readonly #waiting = new Map<
    number,
    { resolve: () => void; reject: (error: ZenithError) => void }
  >()

  /** `begin` gets the number of the request, which `answer` names later. */
  ask(begin: (request: number) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      const request = ++this.#counter
      this.#waiting.set(request, { resolve, reject })
      begin(request)
    })
  }

  /** `refusal` null: it is done. */
  answer(request: number, refusal: string | null): void {
    const waiting = this.#waiting.get(request)
    this.#waiting.delete(request)
    if (refusal === null) waiting?.resolve()
    else waiting?.reject(new ZenithError('precondition_failed', refusal))
  }

  /** No answer will come any more. */
  fail(reason: string): void {
    for (const { reject } of this.#waiting.values()) {
      reject(new ZenithError('unavailable', `this timeline stopped: ${reason}`))
    }
    this.#waiting.clear()
  }
}
