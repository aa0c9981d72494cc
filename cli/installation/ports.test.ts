import { createServer } from 'node:net'
import { expect, test } from 'vitest'
import { applyMove, movePorts, type PortSlot, portIsFree, portSlots } from './ports.ts'
import type { Settings } from './settings.ts'

function slot(key: string, port: number, asked = false): PortSlot {
  return { key, label: key, port, asked, option: `--${key}` }
}

const freeExcept =
  (...taken: number[]) =>
  (port: number) =>
    Promise.resolve(!taken.includes(port))

test('free ports stay', async () => {
  expect(await movePorts([slot('a', 1000), slot('b', 1001)], freeExcept())).toEqual([])
})

test('a taken port gives way to the next one that nobody has or will have', async () => {
  const slots = [slot('a', 1000), slot('b', 1001), slot('c', 1002, true)]
  const moves = await movePorts(slots, freeExcept(1000))
  expect(moves.map(({ slot: { key }, port }) => [key, port])).toEqual([
    ['a', 1001],
    ['b', 1003],
  ])
})

test('a port that was asked for is named when it is taken, or asked for twice', async () => {
  await expect(movePorts([slot('a', 1000, true)], freeExcept(1000))).rejects.toThrow(
    'Port 1000 (a) is taken by another program.',
  )
  const twice = [slot('a', 1000, true), slot('b', 1000, true)]
  await expect(movePorts(twice, freeExcept())).rejects.toThrow('Port 1000 was asked for twice.')
})

test('moves are stored', () => {
  const settings: Settings = {
    initialized: false,
    defaultTenant: '',
    askedPorts: ['sk1.http'],
    etcd: [],
    tls: false,
    s3: null,
    firstEndpointPort: 55432,
    control: { httpPort: 9090 },
    pageservers: [
      { id: 1, name: 'pageserver', pgPort: 64000, httpPort: 9898 },
      { id: 2, name: 'ps2', pgPort: 64001, httpPort: 9899 },
    ],
    safekeepers: [{ id: 1, name: 'sk1', pgPort: 5454, httpPort: 7676 }],
  }
  const slots = portSlots(settings)
  expect(slots.filter(({ asked }) => asked).map(({ key }) => key)).toEqual(['sk1.http'])
  for (const [index, one] of slots.entries()) applyMove(settings, { slot: one, port: 100 + index })
  expect(portSlots(settings).map(({ port }) => port)).toEqual([100, 101, 102, 103, 104, 105, 106])
})

test('a listening port is not free', async () => {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  expect(await portIsFree(port)).toBe(false)
  await new Promise((resolve) => server.close(resolve))
  expect(await portIsFree(port)).toBe(true)
})
