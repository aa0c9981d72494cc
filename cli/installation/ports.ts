/**
 * Which ports the services of an installation listen on. A port that the user asked for is used or
 * named in an error; one that nobody asked for gives way to the next free one.
 */
import { createServer } from 'node:net'
import { ZenithError } from '#libs/errors.ts'
import { FIRST_PAGESERVER, type Settings } from './settings.ts'

export const HOST = '127.0.0.1'

export const DEFAULT_PORTS = {
  controlHttp: 9090,
  pageserverPg: 64000,
  pageserverHttp: 9898,
  safekeeperPg: 5454,
  safekeeperHttp: 7676,
  firstEndpoint: 55432,
} as const

/** One port of one service. */
export interface PortSlot {
  /** As in `asked_ports` of config.toml: `sk1.http`. */
  readonly key: string
  /** For people: `safekeeper sk1, HTTP`. */
  readonly label: string
  readonly port: number
  readonly asked: boolean
  /** The option of `zenith init` that sets it. */
  readonly option: string
}

export interface PortMove {
  readonly slot: PortSlot
  readonly port: number
}

export function portIsFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen({ host: HOST, port, exclusive: true }, () => server.close(() => resolve(true)))
  })
}

/**
 * Decides which slots must take another port. Throws `conflict` that names the first port that was
 * asked for and is taken.
 */
export async function movePorts(
  slots: readonly PortSlot[],
  isFree: (port: number) => Promise<boolean> = portIsFree,
): Promise<PortMove[]> {
  const moves: PortMove[] = []
  const used = new Set<number>()
  // Asked ports first: a port without an owner must not take one that was asked for.
  const inOrder = [...slots.filter(({ asked }) => asked), ...slots.filter(({ asked }) => !asked)]
  for (const slot of inOrder) {
    if (slot.asked && used.has(slot.port)) {
      throw new ZenithError('invalid_argument', `Port ${slot.port} was asked for twice.`)
    }
    let port = slot.port
    while (used.has(port) || !(await isFree(port))) {
      if (slot.asked) throw taken(slot)
      port += 1
      if (port > 65535) throw new ZenithError('unavailable', `No port is free for ${slot.label}.`)
    }
    used.add(port)
    if (port !== slot.port) moves.push({ slot, port })
  }
  return moves
}

/** All slots of an installation, in the order in which its services start. */
export function portSlots(settings: Settings): PortSlot[] {
  const asked = (key: string): boolean => settings.askedPorts.includes(key)
  const slot = (key: string, label: string, port: number, option: string): PortSlot => ({
    key,
    label,
    port,
    asked: asked(key),
    option,
  })
  const { control, pageservers, safekeepers } = settings
  return [
    slot('control.http', 'control plane, HTTP', control.httpPort, '--control-port'),
    ...safekeepers.flatMap(({ name, pgPort, httpPort }) => [
      slot(`${name}.pg`, `safekeeper ${name}, WAL`, pgPort, '--safekeeper-port'),
      slot(`${name}.http`, `safekeeper ${name}, HTTP`, httpPort, '--safekeeper-http-port'),
    ]),
    ...pageservers.flatMap(({ name, pgPort, httpPort }) => {
      const label = name === FIRST_PAGESERVER ? name : `pageserver ${name}`
      return [
        slot(`${name}.pg`, `${label}, pages`, pgPort, '--pageserver-port'),
        slot(`${name}.http`, `${label}, HTTP`, httpPort, '--pageserver-http-port'),
      ]
    }),
  ]
}

/** Stores a move in the settings. */
export function applyMove(settings: Settings, { slot, port }: PortMove): void {
  const [service = '', kind = ''] = slot.key.split('.')
  const field = kind === 'pg' ? 'pgPort' : 'httpPort'
  if (service === 'control') settings.control.httpPort = port
  else {
    const nodes = [...settings.pageservers, ...settings.safekeepers]
    const node = nodes.find(({ name }) => name === service)
    if (node !== undefined) node[field] = port
  }
}

function taken(slot: PortSlot): ZenithError {
  return new ZenithError(
    'conflict',
    `Port ${slot.port} (${slot.label}) is taken by another program.`,
    {
      hint:
        `Stop that program, or choose another port with ${slot.option} of "zenith init" ` +
        '(after that, in config.toml).',
    },
  )
}
