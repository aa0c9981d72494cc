/** `zenith auth`: tokens for tools, and the keys that sign tokens. */
import { existsSync } from 'node:fs'
import { pino } from 'pino'
import { callControl } from '#libs/api/control-client.ts'
import { KeyFolder, keyFolders } from '#libs/auth/key-folder.ts'
import { rotateKeys } from '#libs/auth/key-rotation.ts'
import { TokenSigner } from '#libs/auth/token.ts'
import { ZenithError } from '#libs/errors.ts'
import { parseTimelineId } from '#libs/ids.ts'
import type { Installation } from '../installation/installation.ts'
import { installationId, trustDir } from '../installation/trust.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'

const LIFETIME_MS = 3_600_000

/** Prints a token that lets read the WAL of a branch. */
export async function authToken(branch: string, options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const tenantId = context.tenantId(installation)
  const branches = await callControl(installation.controlUrl, 'listBranches', {
    params: { tenantId },
  })
  const found = branches.find(({ name }) => name === branch)
  if (found === undefined) {
    throw new ZenithError('not_found', `There is no branch "${branch}".`, {
      hint: 'zenith branch lists them.',
    })
  }
  const authDir = authDirOf(installation)
  const { privateDir } = keyFolders(authDir)
  const keys = new KeyFolder(privateDir, 'private', pino({ level: 'silent' }))
  const token = await new TokenSigner(keys, installationId(authDir)).sign({
    scope: 'wal-read',
    subject: 'zenith auth token',
    target: { tenantId, timelineId: parseTimelineId(found.timelineId) },
    lifetimeMs: LIFETIME_MS,
  })
  keys.close()
  const { timelineId } = found
  context.show({ token, tenantId, timelineId, expiresInMs: LIFETIME_MS }, `${token}\n`)
}

/** Makes the key that signs from now on. Services notice it by themselves. */
export async function authRotate(options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  await context.change('zenith auth rotate', (installation) => {
    const { made, removed } = rotateKeys(authDirOf(installation), new Date())
    const over = removed.length === 0 ? '' : `Forgot ${removed.join(', ')}\n`
    context.show({ made, removed }, `Tokens are signed with ${made} from now on\n${over}`)
    return Promise.resolve()
  })
}

function authDirOf(installation: Installation): string {
  const authDir = trustDir(installation.dir)
  if (existsSync(keyFolders(authDir).privateDir)) return authDir
  throw new ZenithError('precondition_failed', 'This installation has no keys yet.', {
    hint: '"zenith start" makes them; stop it first if it runs.',
  })
}
