/**
 * Who Postgres runs as. As root (containers): a system user without rights, also where the
 * installation lies in a folder that this user cannot enter. As a user: that user.
 */
import { accessSync, chmodSync, chownSync, constants, readFileSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, onTestFailed, test } from 'vitest'
import { runAs, type SystemUser } from '#libs/system-user.ts'
import { ZenithCommand } from '../fixtures/zenith-command.ts'

const isRoot = process.getuid?.() === 0
const ROOT = fileURLToPath(new URL('../..', import.meta.url))

test('Postgres and redo run without rights, in an installation that is closed to others', async () => {
  const wanted = runAs()?.uid ?? process.getuid?.()
  expect(wanted).not.toBe(0)
  // Its folder has mode 0700 and, as root, an owner whom Postgres is not.
  await using zenith = new ZenithCommand()
  expect(await ownersOfPostgres(zenith)).toEqual([wanted])
})

test.runIf(isRoot)('a folder that everybody may enter is used as it is', async () => {
  await using zenith = new ZenithCommand()
  chmodSync(zenith.cwd, 0o755)
  expect(await ownersOfPostgres(zenith)).toEqual([runAs()?.uid])
})

test.runIf(isRoot && isReadable(ROOT, runAs()))(
  'a user without rights can do all of it',
  async () => {
    const user = runAs()
    if (user === null) throw new Error('not root')
    await using zenith = new ZenithCommand({ user })
    chownSync(zenith.cwd, user.uid, user.gid)
    expect(await ownersOfPostgres(zenith)).toEqual([user.uid])
  },
)

/** Runs a session, and returns the user ids of all its Postgres processes, redo included. */
async function ownersOfPostgres(zenith: ZenithCommand): Promise<number[]> {
  onTestFailed(async () => console.error((await zenith.run('status')).stdout))
  await zenith.ok('init')
  await zenith.ok('start')
  await zenith.ok('pg start main')
  await zenith.sql('main', 'CREATE TABLE t AS SELECT generate_series(1, 10000) AS i')
  await zenith.sql('main', 'UPDATE t SET i = i + 1 WHERE i % 100 = 0')
  // A second compute starts with nothing, so the pageserver rebuilds every page it reads.
  await zenith.ok('branch dev')
  await zenith.ok('pg start dev')
  expect(await zenith.sql('dev', 'SELECT count(*)::int AS n FROM t')).toEqual([{ n: 10000 }])
  const services = [
    zenith.pidOf('pageserver/pageserver.pid'),
    zenith.pidOf(`pgdatadirs/tenants/${zenith.tenantId}/main/compute.pid`),
    zenith.pidOf(`pgdatadirs/tenants/${zenith.tenantId}/dev/compute.pid`),
  ]
  const owners = services.flatMap((pid) => postgresBelow(pid).map(({ uid }) => uid))
  expect(owners.length).toBeGreaterThan(2)
  await zenith.ok('stop')
  return [...new Set(owners)]
}

interface RunningProcess {
  readonly pid: number
  readonly parent: number
  readonly uid: number
  readonly program: string
}

/** The processes named postgres that descend from one process. */
function postgresBelow(pid: number): RunningProcess[] {
  const all = processes()
  const below = (parent: number): RunningProcess[] => {
    const children = all.filter((one) => one.parent === parent)
    return children.flatMap((child) => [child, ...below(child.pid)])
  }
  return below(pid).filter(({ program }) => program === 'postgres')
}

function processes(): RunningProcess[] {
  const found: RunningProcess[] = []
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      const status = readFileSync(`/proc/${name}/status`, 'utf8')
      const field = (key: string): string =>
        new RegExp(`^${key}:\\s+(\\S+)`, 'm').exec(status)?.[1] ?? ''
      const program = field('Name')
      found.push({
        pid: Number(name),
        parent: Number(field('PPid')),
        uid: Number(field('Uid')),
        program,
      })
    } catch {
      // It has ended since the folder was listed.
    }
  }
  return found
}

/** Whether another user can read the sources: not when the clone lies in a home folder of root. */
function isReadable(path: string, user: SystemUser | null): boolean {
  if (user === null || process.seteuid === undefined) return false
  process.seteuid(user.uid)
  try {
    accessSync(path, constants.R_OK | constants.X_OK)
    readFileSync(`${path}/package.json`)
    return true
  } catch {
    return false
  } finally {
    process.seteuid(0)
  }
}
