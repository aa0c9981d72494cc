/** An HTTP answer that goes on until one side ends it, as subscriptions and watches are served. */
import { errorMessage, ZenithError } from '../errors.ts'

const { request } = process.getBuiltinModule('node:http')

const KEEP_ALIVE_MS = 5_000

export interface StreamOptions {
  method: 'GET' | 'POST'
  url: string
  headers?: Record<string, string>
  body?: string
  /** A stream on which nothing comes for so long is taken for dead; 0 lets it be silent. */
  silenceMs: number
  /** The answer has begun, with status 200. */
  onOpen?: () => void
  /** Throwing ends the stream with that error. */
  onChunk: (chunk: Buffer) => void
  /** Called once. */
  onEnd: (error: ZenithError) => void
}

export interface OpenStream {
  /** Ends the stream without calling `onEnd`. */
  close(): void
}

export function openStream(options: StreamOptions): OpenStream {
  const { method, url, silenceMs } = options
  let ended = false
  const call = request(url, { method, headers: options.headers ?? {}, agent: false })
  const end = (error: ZenithError) => {
    if (ended) return
    ended = true
    call.destroy()
    options.onEnd(error)
  }
  const fail = (error: unknown) => {
    const known = error instanceof ZenithError
    end(known ? error : new ZenithError('unavailable', `stream of ${url}: ${errorMessage(error)}`))
  }
  call.on('error', fail)
  // A server that is gone without a word is noticed even where silence is allowed.
  call.setSocketKeepAlive(true, KEEP_ALIVE_MS)
  call.setTimeout(silenceMs, () => {
    end(new ZenithError('timeout', `nothing came from ${url} for ${silenceMs} ms`))
  })
  call.on('response', (response) => {
    if (response.statusCode !== 200) {
      end(new ZenithError('unavailable', `${url} answered ${response.statusCode}`))
      return
    }
    response.on('error', fail)
    response.on('end', () => end(new ZenithError('unavailable', `${url} ended its stream`)))
    options.onOpen?.()
    response.on('data', (chunk: Buffer) => {
      if (ended) return
      try {
        options.onChunk(chunk)
      } catch (error) {
        fail(error)
      }
    })
  })
  call.end(options.body)
  return {
    close() {
      ended = true
      call.destroy()
    },
  }
}
