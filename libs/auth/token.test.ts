import { createHmac, randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SignJWT } from 'jose'
import { pino } from 'pino'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { TenantId, TimelineId } from '../ids.ts'
import type { SessionTarget } from '../pgwire/session-target.ts'
import { KeyFolder, keyFolders, makeKey } from './key-folder.ts'
import { rotateKeys } from './key-rotation.ts'
import { isExpired, type TokenRequest, TokenSigner, TokenVerifier } from './token.ts'

const NOW_MS = Date.parse('2026-11-21T18:00:00Z')
const log = pino({ level: 'silent' })
const target: SessionTarget = {
  tenantId: 'a'.repeat(32) as TenantId,
  timelineId: 'b'.repeat(32) as TimelineId,
}
const request: TokenRequest = {
  scope: 'compute-write',
  subject: 'endpoint main',
  target,
  lifetimeMs: 3_600_000,
}

let dir: string
const opened: KeyFolder[] = []
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'zenith-keys-'))
})
afterEach(() => {
  for (const folder of opened.splice(0)) folder.close()
  rmSync(dir, { recursive: true, force: true })
})

function open(kind: 'public' | 'private', authDir = dir): KeyFolder {
  const { publicDir, privateDir } = keyFolders(authDir)
  const folder = new KeyFolder(kind === 'public' ? publicDir : privateDir, kind, log)
  opened.push(folder)
  return folder
}

function parties(audience = 'zenith-1'): { signer: TokenSigner; verifier: TokenVerifier } {
  return {
    signer: new TokenSigner(open('private'), audience),
    verifier: new TokenVerifier(open('public'), 'zenith-1'),
  }
}

const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
const claims = {
  aud: 'zenith-1',
  sub: 'x',
  scope: 'sk-admin',
  iat: NOW_MS / 1000,
  exp: NOW_MS / 1000 + 60,
}

test('a token says what it was asked to say', async () => {
  makeKey(dir, new Date(NOW_MS))
  const { signer, verifier } = parties()
  const token = await signer.sign(request, NOW_MS)
  const expected = {
    scope: 'compute-write',
    ...target,
    subject: 'endpoint main',
    expiresAtMs: NOW_MS + 3_600_000,
  }
  expect(await verifier.verify(token, { nowMs: NOW_MS })).toEqual(expected)
  // From memory.
  expect(await verifier.verify(token, { nowMs: NOW_MS + 1000 })).toEqual(expected)
  const forAll = await signer.sign({ ...request, scope: 'wal-read', target: null }, NOW_MS)
  expect(await verifier.verify(forAll, { nowMs: NOW_MS })).toMatchObject({
    tenantId: null,
    timelineId: null,
  })
})

test('a token ends, a little later than it says, also one that is remembered', async () => {
  makeKey(dir, new Date(NOW_MS))
  const { signer, verifier } = parties()
  const token = await signer.sign({ ...request, lifetimeMs: 60_000 }, NOW_MS)
  await verifier.verify(token, { nowMs: NOW_MS + 89_000 })
  const late = { nowMs: NOW_MS + 91_000 }
  await expect(verifier.verify(token, late)).rejects.toThrow('expired')
  await expect(new TokenVerifier(open('public'), 'zenith-1').verify(token, late)).rejects.toThrow(
    'expired',
  )
  const known = await verifier.verify(token, { ...late, graceMs: 3_600_000 })
  expect(isExpired(known, NOW_MS + 91_000)).toBe(true)
})

test('a token of another installation is refused', async () => {
  makeKey(dir, new Date(NOW_MS))
  const { signer, verifier } = parties('zenith-2')
  const token = await signer.sign(request, NOW_MS)
  await expect(verifier.verify(token, { nowMs: NOW_MS })).rejects.toThrow('another installation')
})

test('a token is refused when its key is unknown, and when another key signed it', async () => {
  makeKey(dir, new Date(NOW_MS))
  const other = mkdtempSync(join(tmpdir(), 'zenith-keys-'))
  makeKey(other, new Date(NOW_MS))
  const { verifier } = parties()
  const foreign = open('private', other)
  const token = await new TokenSigner(foreign, 'zenith-1').sign(request, NOW_MS)
  await expect(verifier.verify(token, { nowMs: NOW_MS })).rejects.toThrow('key is not known')
  const { kid } = open('private').newest()
  const forged = await new SignJWT(claims)
    .setProtectedHeader({ alg: 'EdDSA', kid })
    .sign(foreign.newest().key)
  await expect(verifier.verify(forged, { nowMs: NOW_MS })).rejects.toThrow('signature is wrong')
  rmSync(other, { recursive: true, force: true })
})

test('no algorithm but ours is taken, least of all one that makes the public key a secret', async () => {
  const kid = makeKey(dir, new Date(NOW_MS))
  const { verifier } = parties()
  const none = `${part({ alg: 'none', kid })}.${part(claims)}.`
  await expect(verifier.verify(none, { nowMs: NOW_MS })).rejects.toMatchObject({
    code: 'unauthenticated',
  })
  const publicText = readFileSync(join(keyFolders(dir).publicDir, `${kid}.json`))
  const signed = `${part({ alg: 'HS256', kid })}.${part(claims)}`
  const { x } = JSON.parse(publicText.toString()) as { x: string }
  for (const secret of [publicText, Buffer.from(x, 'base64url'), Buffer.from(x)]) {
    const mac = createHmac('sha256', secret).update(signed).digest('base64url')
    await expect(verifier.verify(`${signed}.${mac}`, { nowMs: NOW_MS })).rejects.toThrow(
      'algorithm is not allowed',
    )
  }
})

test('a token must have all its claims, and a short life', async () => {
  makeKey(dir, new Date(NOW_MS))
  const { verifier } = parties()
  const { kid, key } = open('private').newest()
  const verify = async (changes: Record<string, unknown>) => {
    const token = await new SignJWT({ ...claims, ...changes })
      .setProtectedHeader({ alg: 'EdDSA', kid })
      .sign(key)
    return verifier.verify(token, { nowMs: NOW_MS })
  }
  expect(await verify({})).toMatchObject({ scope: 'sk-admin' })
  const refused = [
    { exp: undefined },
    { iat: undefined },
    { sub: undefined },
    { aud: undefined },
    { scope: undefined },
    { scope: 'root' },
    { scope: ['sk-admin'] },
    { exp: NOW_MS / 1000 + 100 * 3600 },
    { tenant: '../../etc' },
    { tenant: 7 },
    { timeline: target.timelineId },
    { nbf: NOW_MS / 1000 + 3600 },
  ]
  for (const changes of refused) {
    await expect(verify(changes), JSON.stringify(changes)).rejects.toMatchObject({
      code: 'unauthenticated',
    })
  }
})

test('what is no token is refused without a word of it in the answer', async () => {
  makeKey(dir, new Date(NOW_MS))
  const { signer, verifier } = parties()
  const token = await signer.sign(request, NOW_MS)
  const cut = token.slice(0, -10)
  for (const wrong of ['', 'x', '..', 'a.b.c', cut, `${token}x`, 'e'.repeat(10_000)]) {
    const error: unknown = await verifier.verify(wrong, { nowMs: NOW_MS }).catch((e: unknown) => e)
    expect(error).toMatchObject({ code: 'unauthenticated' })
    if (wrong.length > 5) expect(JSON.stringify(error)).not.toContain(wrong)
  }
})

test('keys are rotated without a restart', async () => {
  const first = makeKey(dir, new Date(NOW_MS))
  const { signer, verifier } = parties()
  const old = await signer.sign(request, NOW_MS)
  const second = makeKey(dir, new Date(NOW_MS + 60_000))
  // The signer notices by time, verifiers by the kid they do not know.
  const next = new TokenSigner(open('private'), 'zenith-1')
  const fresh = await next.sign(request, NOW_MS)
  await new Promise((resolve) => setTimeout(resolve, 300))
  expect(await verifier.verify(fresh, { nowMs: NOW_MS })).toMatchObject(target)
  expect(await verifier.verify(old, { nowMs: NOW_MS })).toMatchObject(target)

  rmSync(join(keyFolders(dir).publicDir, `${first}.json`))
  const later = new TokenVerifier(open('public'), 'zenith-1')
  await expect(later.verify(old, { nowMs: NOW_MS })).rejects.toThrow('key is not known')
  expect(await later.verify(fresh, { nowMs: NOW_MS })).toMatchObject(target)
  // Those that know it forget it within seconds, tokens that they remember included.
  await new Promise((resolve) => setTimeout(resolve, 2500))
  await expect(verifier.verify(old, { nowMs: NOW_MS })).rejects.toThrow('key is not known')
  expect(second > first).toBe(true)
})

test('rotating forgets public keys only when their tokens have ended', () => {
  const at = (hours: number) => new Date(NOW_MS + hours * 3_600_000)
  const { publicDir, privateDir } = keyFolders(dir)
  const kids = (folder: string) => readdirSync(folder).map((name) => name.replace('.json', ''))
  const first = makeKey(dir, at(0))
  const second = rotateKeys(dir, at(1))
  expect(second.removed).toEqual([])
  const third = rotateKeys(dir, at(2))
  expect(third.removed).toEqual([])
  expect(kids(publicDir)).toEqual([first, second.made, third.made])
  expect(kids(privateDir)).toEqual([third.made])
  const fourth = rotateKeys(dir, at(3.5))
  expect(fourth.removed).toEqual([first])
  expect(kids(publicDir)).toEqual([second.made, third.made, fourth.made])
})

test('files that are no keys take nothing away, and private keys are no public ones', async () => {
  const kid = makeKey(dir, new Date(NOW_MS))
  const { publicDir, privateDir } = keyFolders(dir)
  writeFileSync(join(publicDir, 'broken.json'), '{')
  writeFileSync(join(publicDir, 'large.json'), randomBytes(5000))
  writeFileSync(join(publicDir, 'note.txt'), 'x')
  writeFileSync(join(publicDir, 'moved.json'), readFileSync(join(privateDir, `${kid}.json`)))
  const keys = open('public')
  expect(keys.get(kid)).toBeDefined()
  for (const name of ['broken', 'large', 'note', 'moved']) expect(keys.get(name)).toBeUndefined()
  for (const name of readdirSync(publicDir)) rmSync(join(publicDir, name))
  expect(() => open('public')).toThrow('holds no public key')
})
