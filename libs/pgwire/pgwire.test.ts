import { once } from 'node:events'
import { connect } from 'node:net'
import fc from 'fast-check'
import { afterEach, expect, test } from 'vitest'
import { ZenithError } from '../errors.ts'
import { createLogger } from '../log.ts'
import { connectPgWire } from './client.ts'
import { FrameReader } from './frame-reader.ts'
import { message } from './messages.ts'
import { type PgWireServer, servePgWire } from './server.ts'
import type { PgSession } from './session.ts'
import { sessionTarget, targetOptions } from './session-target.ts'
import type { TenantId, TimelineId } from '../ids.ts'

const servers: PgWireServer[] = []
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close()
})

async function serve(onSession: (session: PgSession) => Promise<void>): Promise<number> {
  const server = await servePgWire({
    host: '127.0.0.1',
    port: 0,
    log: createLogger('test'),
    onSession,
  })
  servers.push(server)
  return server.port
}

test('any slicing of the byte stream gives the same messages', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.integer({ min: 65, max: 90 }), fc.uint8Array({ maxLength: 300 }))),
      fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }),
      (messages, cuts) => {
        const stream = Buffer.concat(messages.map(([tag, body]) => message(tag, Buffer.from(body))))
        const seen: [number, string][] = []
        const reader = new FrameReader(1000, (tag, body) => seen.push([tag, body.toString('hex')]))
        let offset = 0
        for (let index = 0; offset < stream.length; index++) {
          const end = Math.min(stream.length, offset + (cuts[index % cuts.length] as number))
          reader.push(stream.subarray(offset, end))
          offset = end
        }
        expect(seen).toEqual(
          messages.map(([tag, body]) => [tag, Buffer.from(body).toString('hex')]),
        )
      },
    ),
  )
})

test('a message over the limit is refused before memory is taken', () => {
  const reader = new FrameReader(100, () => {})
  expect(() => reader.push(Buffer.from([0x51, 0x7f, 0xff, 0xff, 0xff]))).toThrow(ZenithError)
})

test('queries, rows and errors pass between client and server', async () => {
  const port = await serve(async (session) => {
    for (let sql = await session.nextQuery(); sql !== null; sql = await session.nextQuery()) {
      if (sql === 'bad') session.sendError(new ZenithError('not_found', 'no such thing'))
      else {
        session.sendRowDescription([{ name: 'a' }, { name: 'b' }])
        session.sendDataRow([sql, null])
        session.sendCommandComplete('SELECT 1')
      }
      session.sendReadyForQuery()
    }
  })
  const client = await connectPgWire({ port })
  expect(await client.query('x')).toEqual({ columns: ['a', 'b'], rows: [['x', null]] })
  await expect(client.query('bad')).rejects.toThrow('no such thing')
  expect((await client.query('y')).rows).toEqual([['y', null]])
  await client.close()
})

test('CopyBoth carries payloads both ways and ends once on each side', async () => {
  const port = await serve(async (session) => {
    await session.nextQuery()
    await new Promise<void>((resolve) => {
      session.startCopyBoth(
        (payload) => session.sendCopyData(Buffer.from('echo '), payload),
        () => resolve(),
      )
    })
    session.sendCopyDone()
    session.sendCommandComplete('COPY')
    session.sendReadyForQuery()
    await session.nextQuery()
  })
  const client = await connectPgWire({ port })
  const got: string[] = []
  let wake = () => {}
  const ended = new Promise<Error | undefined>((resolve) => {
    void client
      .startCopyBoth(
        'start',
        (payload) => {
          got.push(payload.toString())
          wake()
        },
        resolve,
      )
      .then(() => {
        client.sendCopyData(Buffer.from('one'))
        client.sendCopyData(Buffer.from('t'), Buffer.from('wo'))
      })
  })
  while (got.length < 2)
    await new Promise<void>((resolve) => {
      wake = resolve
    })
  client.sendCopyDone()
  expect(await ended).toBeUndefined()
  expect(got).toEqual(['echo one', 'echo two'])
  await client.close()
})

test('copyOut yields what the server sent, and its error', async () => {
  const port = await serve(async (session) => {
    await session.nextQuery()
    session.startCopyOut()
    session.sendCopyData(Buffer.alloc(100_000, 7))
    throw new ZenithError('corrupt', 'the layer is damaged')
  })
  const client = await connectPgWire({ port })
  let bytes = 0
  const reading = (async () => {
    for await (const part of client.copyOut('backup')) bytes += part.length
  })()
  await expect(reading).rejects.toThrow('the layer is damaged')
  expect(bytes).toBe(100_000)
})

test('a client that asks for encryption first, and gets none, goes on in the clear', async () => {
  const port = await serve(async (session) => void (await session.nextQuery()))
  const socket = connect({ port, host: '127.0.0.1' })
  await once(socket, 'connect')
  socket.write(Buffer.from('0000000804d2162f', 'hex'))
  const [answer] = (await once(socket, 'data')) as [Buffer]
  expect(answer.toString()).toBe('N')
  const startup = Buffer.from('\0\0\0\0\0\x03\0\0user\0x\0\0', 'latin1')
  startup.writeUInt32BE(startup.length, 0)
  socket.write(startup)
  const [ok] = (await once(socket, 'data')) as [Buffer]
  expect(ok.toString('latin1', 0, 1)).toBe('R')
  socket.destroy()
})

test('pieces of any size arrive whole, also while the client reads with pauses', async () => {
  const sizes = [0, 1, 300, 16_379, 16_380, 16_381, 70_000, 400_000]
  const port = await serve(async (session) => {
    await session.nextQuery()
    session.startCopyOut()
    for (const size of sizes) {
      session.sendCopyData(Buffer.from([size % 251]), Buffer.alloc(size, size % 251))
    }
    session.sendCopyDone()
    session.sendCommandComplete('COPY')
    session.sendReadyForQuery()
    await session.nextQuery()
  })
  const client = await connectPgWire({ port })
  const got: number[] = []
  await new Promise<void>((resolve, reject) => {
    const onFrame = (payload: Buffer) => {
      expect(payload.every((byte) => byte === payload[0])).toBe(true)
      got.push(payload.length - 1)
      client.pause()
      setTimeout(() => client.resume(), 5)
    }
    client.startCopyBoth('x', onFrame, (error) => (error ? reject(error) : resolve())).catch(reject)
  })
  expect(got).toEqual(sizes)
  await client.close()
})

test('a server that goes away ends the stream of a client', async () => {
  const port = await serve(async (session) => {
    await session.nextQuery()
    session.startCopyBoth(
      () => {},
      () => {},
    )
    session.sendCopyData(Buffer.from('last words'))
    setTimeout(() => session.socket.destroy(), 20)
    await session.nextQuery()
  })
  const client = await connectPgWire({ port })
  const words: string[] = []
  const error = await new Promise<Error | undefined>((resolve) => {
    void client.startCopyBoth('x', (payload) => words.push(payload.toString()), resolve)
  })
  expect(words).toEqual(['last words'])
  expect(error?.message).toContain('was closed')
})

test('a refused connection names the address', async () => {
  await expect(connectPgWire({ port: 1 })).rejects.toThrow('127.0.0.1:1')
})

test('startup options carry tenant and timeline', () => {
  const target = {
    tenantId: 'a'.repeat(32) as TenantId,
    timelineId: 'b'.repeat(32) as TimelineId,
  }
  expect(sessionTarget(new Map([['options', targetOptions(target)]]))).toEqual(target)
  expect(sessionTarget(new Map())).toBeNull()
  expect(() => sessionTarget(new Map([['options', 'tenant_id=../x timeline_id=y']]))).toThrow()
})
