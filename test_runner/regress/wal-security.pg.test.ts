/**
 * Strangers at a safekeeper, with real processes: whoever has no right to something is refused, at no
 * cost to those who have, and keys and certificates change under load.
 */
import { execFile } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { SignJWT } from 'jose'
import { pino } from 'pino'
import { expect, test } from 'vitest'
import { callControl } from '#libs/api/control-client.ts'
import { callSafekeeper } from '#libs/api/safekeeper.ts'
import { makeAuthority } from '#libs/auth/certificates.ts'
import { KeyFolder, keyFolders, makeKey } from '#libs/auth/key-folder.ts'
import type { ZenithError } from '#libs/errors.ts'
import { requestText } from '#libs/http/client.ts'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import { connectPgWire, type PgClient } from '#libs/pgwire/client.ts'
import { targetOptions } from '#libs/pgwire/session-target.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import {
  encodeProposerMessage,
  type ProposerGreeting,
  START_WAL_PUSH,
} from '#libs/protocol/wal-push.ts'
import { eventually } from '../fixtures/eventually.ts'
import { Guarded } from '../fixtures/guarded.ts'
import { Installation } from '../fixtures/installation.ts'
import { Ledger } from '../fixtures/ledger.ts'
import { WalService } from '../fixtures/wal-service.ts'

const run = promisify(execFile)
/** What a safekeeper may grow by while strangers do their worst; one claim that is believed is more. */
const FLAT_BYTES = 64 << 20

function start(guarded: Guarded, safekeepers = 1): Promise<WalService> {
  const { settings, authority } = guarded
  return WalService.start({
    safekeepers,
    safekeeperSettings: settings,
    ...(authority === undefined ? {} : { authority }),
  })
}

function rssBytes(service: WalService): number {
  const status = readFileSync(`/proc/${service.safekeepers[0]?.process.pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) * 1024
}

/** Opens a connection as a proposer does, and says why it could not. */
async function push(service: WalService, token: string | null): Promise<PgClient | ZenithError> {
  const { pgPort } = service.members[0]!
  const options = { port: pgPort, options: service.pgOptions, replication: true, token }
  try {
    const client = await connectPgWire(options)
    try {
      await client.startCopyBoth(
        START_WAL_PUSH,
        () => {},
        () => {},
      )
      return client
    } catch (error) {
      client.destroy()
      throw error
    }
  } catch (error) {
    return error as ZenithError
  }
}

/** Waits until the safekeeper has closed a connection, or had the time to. */
async function ended(client: PgClient): Promise<void> {
  const deadline = Date.now() + 60_000
  while (!client.socket.destroyed && Date.now() < deadline) await sleep(10)
}

async function httpCode(service: WalService, token: string | null): Promise<number> {
  const { tenantId, timelineId, members } = service
  const url = `http://127.0.0.1:${members[0]!.httpPort}/v1/tenant/${tenantId}/timeline/${timelineId}`
  return (await requestText('DELETE', `${url}?generation=9`, undefined, { token })).status
}

/** Tokens that give no right to push to the service's timeline, with the code of the refusal. */
async function badTokens(
  guarded: Guarded,
  service: WalService,
): Promise<Map<string, [string | null, string]>> {
  const { tenantId, timelineId } = service
  const target = { tenantId, timelineId }
  const write = { scope: 'compute-write', target } as const
  const { sign, authDir } = guarded
  const keys = new KeyFolder(keyFolders(authDir).privateDir, 'private', pino({ level: 'silent' }))
  const { kid, key } = keys.newest()
  keys.close()
  const good = await sign(write)
  const [, payload] = good.split('.')
  const nowS = Math.floor(Date.now() / 1000)
  const own = (header: Record<string, unknown>, change: Record<string, unknown>) =>
    new SignJWT({
      ...(JSON.parse(Buffer.from(payload!, 'base64url').toString()) as object),
      ...change,
    })
      .setProtectedHeader({ alg: 'EdDSA', kid, ...header })
      .sign(key)
  const head = (header: object) => Buffer.from(JSON.stringify(header)).toString('base64url')
  const publicKey = readFileSync(join(keyFolders(authDir).publicDir, `${kid}.json`))
  const unsigned = `${head({ alg: 'HS256', kid })}.${payload}`
  const mac = createHmac('sha256', publicKey).update(unsigned).digest('base64url')
  return new Map([
    ['none', [null, 'unauthenticated']],
    ['nonsense', ['nonsense', 'unauthenticated']],
    ['expired', [await own({}, { iat: nowS - 600, exp: nowS - 300 }), 'unauthenticated']],
    ['for ever', [await own({}, { exp: nowS + 1e9 }), 'unauthenticated']],
    ['of another installation', [await own({}, { aud: 'zenith-0' }), 'unauthenticated']],
    ['of an unknown key', [await own({ kid: 'x' }, {}), 'unauthenticated']],
    ['changed', [good.replace(payload!, head({ scope: 'compute-write' })), 'unauthenticated']],
    ['not signed', [`${head({ alg: 'none', kid })}.${payload}.`, 'unauthenticated']],
    ['signed with the public key', [`${unsigned}.${mac}`, 'unauthenticated']],
    ['of another tenant', [await own({}, { tenant: newTenantId() }), 'forbidden']],
    ['of another timeline', [await own({}, { timeline: newTimelineId() }), 'forbidden']],
    ['of no timeline', [await sign({ scope: 'compute-write' }), 'forbidden']],
    ['to read', [await sign({ scope: 'wal-read', target }), 'forbidden']],
    ['of a peer', [await sign({ scope: 'sk-peer' }), 'forbidden']],
    ['of the control plane', [await sign({ scope: 'sk-admin' }), 'forbidden']],
    ['of discovery', [await sign({ scope: 'broker' }), 'forbidden']],
  ])
}

test('who may not push is refused, whatever is wrong; commits go on and memory stays flat', async () => {
  using guarded = await Guarded.make({ tls: false })
  await using service = await start(guarded)
  const proposer = await service.startCompute()
  const ledger = new Ledger(() => service.postgres.connect(), 2)
  await ledger.createTables()
  ledger.start()
  await ledger.progress(20, 60_000)
  const { tenantId, timelineId, members } = service
  const { term } = await service.timeline(0)
  const before = rssBytes(service)

  for (const [what, [token, code]] of await badTokens(guarded, service)) {
    expect(await push(service, token), what).toMatchObject({ code })
    if (what === 'of the control plane') continue
    const status = code === 'forbidden' ? 403 : 401
    expect(await httpCode(service, token), what).toBe(status)
  }

  // A good token, and a greeting that means another timeline.
  const write = await guarded.sign({ scope: 'compute-write', target: { tenantId, timelineId } })
  const greeting: ProposerGreeting = {
    kind: 'greeting',
    tenantId,
    timelineId,
    configuration: { generation: 1, members, newMembers: null },
    pgVersion: 170011,
    systemId: service.systemId,
    walSegmentSize: 1 << 24,
    proposerId: 'c'.repeat(32),
    ordinal: 1,
  }
  const greet = (change: Partial<ProposerGreeting>) =>
    encodeProposerMessage({ ...greeting, ...change })
  const hugeCount = encodeProposerMessage({
    kind: 'elected',
    generation: 1,
    term: 1,
    startStreamingAt: 8,
    history: [{ term: 1, startLsn: 8 }],
  })
  hugeCount.writeUInt32BE(0xffffffff, 21)
  const hugeMembers = greet({})
  hugeMembers.writeUInt32BE(0xfffffff0, 1 + 33 + 33 + 4)
  const jump = encodeProposerMessage({ kind: 'vote', generation: 1, term: term + 2 ** 40 })
  const attacks: Record<string, Buffer[]> = {
    'another timeline': [greet({ timelineId: newTimelineId() })],
    'another tenant': [greet({ tenantId: newTenantId() })],
    'huge history': [greet({}), hugeCount],
    'huge list of members': [hugeMembers],
    'term jump': [greet({}), jump],
    'unknown message': [Buffer.from('?')],
  }
  for (const [what, messages] of Object.entries(attacks)) {
    const client = (await push(service, write)) as PgClient
    for (const message of messages) client.sendCopyData(message)
    await ended(client)
    expect(client.socket.destroyed, what).toBe(true)
  }
  // A length that no message has, on connections that say nothing after it.
  const oversized = Array.from({ length: 20 }, async () => {
    const client = (await push(service, write)) as PgClient
    client.socket.write(Buffer.from([0x64, 0x7f, 0xff, 0xff, 0xff]))
    await ended(client)
    expect(client.socket.destroyed).toBe(true)
  })
  await Promise.all(oversized)

  expect(rssBytes(service) - before).toBeLessThan(FLAT_BYTES)
  expect((await service.timeline(0)).term).toBe(term)
  await ledger.progress(20, 60_000)
  await ledger.stop()
  expect(await ledger.violations()).toEqual([])
  expect(proposer.status().phase).toBe('elected')
  const log = readFileSync(join(service.safekeepers[0]!.dir, 'safekeeper.log'), 'utf8')
  expect(log).not.toContain(write)
  expect(log).not.toContain(write.split('.')[2])
})

test('TLS: stock clients verify it, plaintext is refused, and keys and certificates change under load', async () => {
  using guarded = await Guarded.make({ tls: true })
  await using service = await start(guarded, 3)
  await service.startCompute()
  const ledger = new Ledger(() => service.postgres.connect(), 2)
  await ledger.createTables()
  ledger.start()
  await ledger.progress(20, 60_000)
  const { tenantId, timelineId } = service
  const target = { tenantId, timelineId }
  const { pgPort, httpPort } = service.members[0]!
  const token = await guarded.sign({ scope: 'wal-read', target })

  // In the clear: refused before a token is asked for.
  await expect(
    connectPgWire({ port: pgPort, options: targetOptions(target), token }),
  ).rejects.toThrow('encrypted connections only')
  await expect(requestText('GET', `http://127.0.0.1:${httpPort}/v1/status`)).rejects.toMatchObject({
    code: 'unavailable',
  })

  const receive = async (parameters: string, password: string) => {
    const folder = mkdtempSync(join(tmpdir(), 'zenith-receivewal-'))
    const [row] = await service.postgres.query('SELECT pg_current_wal_flush_lsn()::text AS lsn')
    const end = formatLsn(parseLsn(String(row?.['lsn'])) - 8)
    const url = `host=127.0.0.1 port=${pgPort} user=x options='${service.pgOptions}' ${parameters}`
    try {
      await run(
        findPostgres().bin('pg_receivewal'),
        ['-d', url, '-D', folder, '-E', end, '--no-loop'],
        { env: { ...process.env, PGPASSWORD: password } },
      )
      return readdirSync(folder).length
    } catch (error) {
      return (error as { stderr: string }).stderr
    } finally {
      rmSync(folder, { recursive: true })
    }
  }
  const verified = `sslmode=verify-full sslrootcert=${guarded.authorityFile}`
  expect(await receive(verified, token)).toBeGreaterThan(0)
  expect(await receive(verified, 'wrong')).toContain('the token is not valid')
  expect(await receive('sslmode=disable', token)).toContain('encrypted connections only')
  const stranger = join(guarded.dir, 'stranger.pem')
  writeFileSync(stranger, (await makeAuthority('a stranger', Date.now())).cert)
  const misled = `sslmode=verify-full sslrootcert=${stranger}`
  expect(await receive(misled, token)).toContain('certificate verify failed')

  // A new certificate and a new key, then the old key goes.
  const [oldKid] = readdirSync(keyFolders(guarded.authDir).publicDir)
  await guarded.renewCertificate('renewed')
  await eventually(async () => {
    const names = service.safekeepers.map(({ info }) =>
      certificateName(info.pgPort, guarded.authority),
    )
    return (await Promise.all(names)).every((name) => name === 'renewed')
  }, 'the new certificate to be shown')
  makeKey(guarded.authDir, new Date())
  await eventually(async () => {
    const [header = ''] = token.split('.')
    return !(await guarded.sign({ scope: 'wal-read', target })).includes(header)
  }, 'the new key to sign')
  await ledger.progress(20, 60_000)
  for (const dir of Object.values(keyFolders(guarded.authDir))) rmSync(join(dir, oldKid!))
  await eventually(
    async () => String(await receive(verified, token)).includes('its key is not known'),
    'the end of what the old key has signed',
  )
  expect(
    await receive(verified, await guarded.sign({ scope: 'wal-read', target })),
  ).toBeGreaterThan(0)
  await service.safekeepers[1]?.process.stop('SIGKILL')
  await service.safekeepers[1]?.process.start()
  await ledger.progress(20, 60_000)
  await ledger.stop()
  expect(await ledger.violations()).toEqual([])
})

/** The name in the certificate that a WAL port shows now. */
function certificateName(port: number, ca: string | undefined): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.write(Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]))
    })
    socket.on('error', reject)
    socket.once('data', () => {
      const tls = process.getBuiltinModule('node:tls')
      const secure = tls.connect(
        { socket, host: '127.0.0.1', ...(ca === undefined ? {} : { ca }) },
        () => {
          resolve(String(secure.getPeerCertificate().subject.CN))
          secure.destroy()
        },
      )
      secure.on('error', reject)
    })
  })
}

test('a whole installation with TLS: a compute, a replica, and who gets tokens', async () => {
  await using zenith = await Installation.create({ tls: true })
  const compute = await zenith.startCompute()
  await compute.query('CREATE TABLE t AS SELECT 7 AS a')
  const replica = await zenith.startCompute('main', { name: 'reader', mode: 'replica' })
  const deadline = Date.now() + 60_000
  while ((await replica.value('SELECT a FROM t').catch(() => null)) !== 7) {
    if (Date.now() > deadline) throw new Error(`the replica did not get there\n${zenith.logs()}`)
    await sleep(50)
  }

  const { tenantId, timelineId, attempt, endpoint: name, safekeeperAccess } = compute.spec
  const token = safekeeperAccess?.token ?? ''
  const renew = (body: { attempt: number; token: string }) =>
    callControl(zenith.controlUrl, 'renewToken', { params: { tenantId, name }, body })
  const renewed = await renew({ attempt, token })
  expect(renewed.token).not.toBe('')
  const readers = replica.spec.safekeeperAccess?.token ?? ''
  await expect(renew({ attempt: attempt + 1, token })).rejects.toMatchObject({ code: 'fenced' })
  await expect(renew({ attempt, token: readers })).rejects.toMatchObject({ code: 'forbidden' })
  await expect(renew({ attempt, token: 'x' })).rejects.toMatchObject({ code: 'unauthenticated' })
  const secret = readFileSync(join(zenith.dir, 'pageserver', 'node-secret'), 'utf8').trim()
  const issue = (kind: 'pageserver' | 'safekeeper', id: number) =>
    callControl(zenith.controlUrl, 'issueNodeToken', { body: { kind, id, secret } })
  const { token: nodeToken } = await issue('pageserver', 1)
  await expect(issue('safekeeper', 1)).rejects.toMatchObject({ code: 'unauthenticated' })
  await expect(issue('pageserver', 2)).rejects.toMatchObject({ code: 'unauthenticated' })

  // A pageserver sees every timeline and changes none; a compute sees its own.
  const { host, httpPort } = zenith.safekeeperNodes[0]!
  const ca = safekeeperAccess?.ca ?? ''
  const as = (shown: string) => ({ token: () => Promise.resolve(shown), tls: () => ({ ca }) })
  const call = (credentials: ReturnType<typeof as>, params = { tenantId, timelineId }) =>
    callSafekeeper(`http://${host}:${httpPort}`, 'getTimeline', { params, credentials })
  expect(await call(as(nodeToken))).toMatchObject({ computeConnected: true })
  expect(await call(as(renewed.token))).toMatchObject({ computeConnected: true })
  const foreign = { tenantId, timelineId: newTimelineId() }
  await expect(call(as(renewed.token), foreign)).rejects.toMatchObject({ code: 'forbidden' })
  for (const shown of [nodeToken, renewed.token, readers]) {
    const remove = callSafekeeper(`http://${host}:${httpPort}`, 'deleteTimeline', {
      params: { tenantId, timelineId },
      credentials: as(shown),
    })
    await expect(remove).rejects.toMatchObject({ code: 'forbidden' })
  }
})
