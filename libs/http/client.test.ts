import { createServer, type RequestListener, type Server } from 'node:http'
import { afterEach, expect, test } from 'vitest'
import { requestJson } from './client.ts'

const open: Server[] = []
afterEach(() => {
  for (const server of open.splice(0)) {
    server.closeAllConnections()
    server.close()
  }
})

async function serve(listener: RequestListener): Promise<string> {
  const server = createServer(listener)
  open.push(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${(server.address() as { port: number }).port}/path`
}

test('an answer that never comes is a timeout that names the request', async () => {
  const url = await serve(() => {})
  await expect(requestJson('GET', url, undefined, { timeoutMs: 50 })).rejects.toMatchObject({
    code: 'timeout',
    message: `GET ${url} took longer than 50 ms`,
  })
})

test('an answer that stops in the middle is not taken for whole', async () => {
  const url = await serve((_request, response) => {
    response.writeHead(200, { 'content-length': 100 })
    response.write('{"half":')
    setTimeout(() => response.destroy(), 10)
  })
  await expect(requestJson('GET', url)).rejects.toMatchObject({ code: 'unavailable' })
})

test('nobody there is unavailable, with the reason', async () => {
  const url = await serve(() => {})
  open.pop()?.close()
  await expect(requestJson('GET', url)).rejects.toMatchObject({
    code: 'unavailable',
    message: expect.stringContaining('ECONNREFUSED') as string,
  })
})

test('bytes beyond ASCII arrive whole, an empty answer is undefined', async () => {
  const url = await serve((request, response) => {
    if (request.method === 'DELETE') {
      response.end()
      return
    }
    request.pipe(response)
  })
  const body = { text: 'Zürich → 東京' }
  expect(await requestJson('PUT', url, body)).toEqual(body)
  expect(await requestJson('DELETE', url)).toBeUndefined()
})

test('a failure without a problem document is still a failure', async () => {
  const url = await serve((_request, response) => {
    response.statusCode = 502
    response.end('<html>bad gateway</html>')
  })
  await expect(requestJson('GET', url)).rejects.toMatchObject({
    code: 'internal',
    message: 'the server answered 502',
  })
})
