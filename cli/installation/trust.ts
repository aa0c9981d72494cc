/**
 * Who trusts whom within an installation: keys, secrets and certificates, all below its `auth`
 * folder, and what each service's settings say about them. Made where missing at each start, so that
 * installations of before get theirs too; what is there is left alone.
 *
 *   auth/installation-id     the audience of tokens
 *   auth/private/<kid>.json  signs tokens; mode 0600, for the control plane alone
 *   auth/public/<kid>.json   verifies them
 *   auth/node-secrets        the secrets of nodes are derived from it; for the control plane alone
 *   auth/tls/ca.pem, ca.key, <service>.pem, <service>.key     with TLS
 *   <folder of a service>/node-secret                         its own
 */
import { randomBytes } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { keyFolders, makeKey } from '#libs/auth/key-folder.ts'
import { newSecret, nodeSecret, readSecret, writeSecret } from '#libs/auth/node-secret.ts'

/** Renewed at a start when it ends within a third of this. */
const CERTIFICATE_LIFETIME_MS = 365 * 24 * 60 * 60_000

export interface TrustedNode {
  kind: 'pageserver' | 'safekeeper'
  id: number
  name: string
  dir: string
  host: string
}

export interface TrustOptions {
  /** Of the installation. */
  dir: string
  controlDir: string
  nodes: readonly TrustedNode[]
  /** Whether safekeepers speak TLS alone. */
  tls: boolean
}

/** More settings for each service, by its name; those of the control plane under `control`. */
export type TrustSettings = ReadonlyMap<string, Record<string, unknown>>

export async function prepareTrust(options: TrustOptions): Promise<TrustSettings> {
  const authDir = trustDir(options.dir)
  mkdirSync(authDir, { recursive: true, mode: 0o755 })
  const audience = installationId(authDir)
  if (!hasKey(authDir)) makeKey(authDir, new Date())
  const secretsFile = join(authDir, 'node-secrets')
  if (!existsSync(secretsFile)) writeSecret(secretsFile, newSecret())
  const master = readSecret(secretsFile)
  if (options.tls) await makeCertificates(authDir, audience, options.nodes)

  const settings = new Map<string, Record<string, unknown>>()
  const { controlDir } = options
  settings.set('control', {
    auth: {
      keys: relative(controlDir, authDir),
      audience,
      node_secrets: relative(controlDir, secretsFile),
    },
    ...authorityOf(options, controlDir),
  })
  for (const node of options.nodes) {
    writeSecret(join(node.dir, 'node-secret'), nodeSecret(master, node.kind, node.id))
    settings.set(
      node.name,
      node.kind === 'safekeeper'
        ? safekeeperSettings(options, node, audience)
        : { auth: { node_secret: 'node-secret' }, ...authorityOf(options, node.dir) },
    )
  }
  return settings
}

export function trustDir(dir: string): string {
  return join(dir, 'auth')
}

/** The audience of tokens, made when there is none. */
export function installationId(authDir: string): string {
  const file = join(authDir, 'installation-id')
  if (!existsSync(file)) writeFileSync(file, `zenith-${randomBytes(8).toString('hex')}\n`)
  return readFileSync(file, 'utf8').trim()
}

/** File with the authority of the safekeepers' certificates. */
export function authorityFile(dir: string): string {
  return join(trustDir(dir), 'tls', 'ca.pem')
}

function hasKey(authDir: string): boolean {
  const { publicDir, privateDir } = keyFolders(authDir)
  if (!existsSync(publicDir) || !existsSync(privateDir)) return false
  chmodSync(privateDir, 0o700)
  const known = new Set(readdirSync(publicDir))
  return readdirSync(privateDir).some((name) => name.endsWith('.json') && known.has(name))
}

function authorityOf({ dir, tls }: TrustOptions, serviceDir: string): { safekeeper_ca?: string } {
  return tls ? { safekeeper_ca: relative(serviceDir, authorityFile(dir)) } : {}
}

function safekeeperSettings(
  options: TrustOptions,
  node: TrustedNode,
  audience: string,
): Record<string, unknown> {
  const authDir = trustDir(options.dir)
  const path = (...names: string[]) => relative(node.dir, join(authDir, ...names))
  return {
    auth: { public_keys: path('public'), audience, node_secret: 'node-secret' },
    ...(options.tls
      ? {
          tls: {
            mode: 'require',
            cert: path('tls', `${node.name}.pem`),
            key: path('tls', `${node.name}.key`),
            ca: path('tls', 'ca.pem'),
          },
        }
      : {}),
  }
}

async function makeCertificates(
  authDir: string,
  audience: string,
  nodes: readonly TrustedNode[],
): Promise<void> {
  // Only installations with TLS load what makes certificates.
  const { X509Certificate } = process.getBuiltinModule('node:crypto')
  const { makeAuthority, makeCertificate, writeCertificate } = await import(
    '#libs/auth/certificates.ts'
  )
  const place = (name: string) => ({
    cert: join(authDir, 'tls', `${name}.pem`),
    key: join(authDir, 'tls', `${name}.key`),
  })
  const nowMs = Date.now()
  const ca = place('ca')
  if (!existsSync(ca.cert)) writeCertificate(ca, await makeAuthority(audience, nowMs))
  const authority = { cert: readFileSync(ca.cert, 'utf8'), key: readFileSync(ca.key, 'utf8') }
  for (const { kind, name, host } of nodes) {
    if (kind !== 'safekeeper') continue
    const files = place(name)
    if (existsSync(files.cert)) {
      const endsAtMs = Date.parse(new X509Certificate(readFileSync(files.cert)).validTo)
      if (endsAtMs - nowMs > CERTIFICATE_LIFETIME_MS / 3) continue
    }
    const hosts = [...new Set([host, 'localhost'])]
    const lifetimeMs = CERTIFICATE_LIFETIME_MS
    writeCertificate(files, await makeCertificate(authority, { name, hosts, nowMs, lifetimeMs }))
  }
}
