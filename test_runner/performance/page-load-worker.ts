/** The thread behind `PageLoad`. */
import { connect } from 'node:net'
import { parentPort } from 'node:worker_threads'
import { connectPgWire } from '#libs/pgwire/client.ts'
import type { LoadShape } from './page-load.ts'
import { PageStreamClient } from './page-stream-client.ts'

const PAGE_SIZE = 8192
const REQUEST = Buffer.alloc(64)

parentPort?.on('message', (shape: LoadShape) => {
  ;(shape.bare ? askBare(shape) : askPages(shape)).then(
    (latencies) => parentPort?.postMessage(latencies),
    (error: unknown) => parentPort?.postMessage(String(error)),
  )
})

function askBare({ port, pages, depth }: LoadShape): Promise<Float64Array> {
  return new Promise((resolve, reject) => {
    const buffer = Buffer.allocUnsafeSlow(256 * 1024)
    let [asked, bytes] = [0, 0]
    const socket = connect({
      port,
      host: '127.0.0.1',
      noDelay: true,
      onread: {
        buffer,
        callback: (length: number) => {
          bytes += length
          pump()
          return true
        },
      },
    })
    const pump = () => {
      const answered = Math.floor(bytes / PAGE_SIZE)
      if (answered === pages) {
        socket.destroy()
        resolve(new Float64Array())
      }
      socket.cork()
      for (; asked < pages && asked - answered < depth; asked++) socket.write(REQUEST)
      socket.uncork()
    }
    socket.on('connect', pump)
    socket.on('error', reject)
  })
}

async function askPages(shape: LoadShape): Promise<Float64Array> {
  const { port, pages, depth, perRequest, relation, blocks = 1 } = shape
  if (!relation) throw new Error('a page stream is asked about a relation')
  const client = await connectPgWire({ port })
  try {
    const stream = new PageStreamClient(client)
    await stream.open(shape.command ?? '')
    const requests = Math.floor(pages / perRequest)
    const latencies = new Float64Array(depth === 1 ? requests : 0)
    for (let index = 0; index < requests; index++) {
      const start = performance.now()
      const first =
        perRequest === 1 ? (index * 7919) % blocks : (index * perRequest) % (blocks - perRequest)
      stream.ask(relation, first, perRequest)
      if (stream.inFlight >= depth) await stream.settled(depth - 1)
      if (depth === 1) latencies[index] = performance.now() - start
    }
    await stream.settled(0)
    return latencies
  } finally {
    await client.close()
  }
}
