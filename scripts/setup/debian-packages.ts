/** The Debian packages that building Postgres and pgxn/ needs. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { ZenithError } from '#libs/errors.ts'
import { runLogged } from './command.ts'

/** A plain list, since the launcher reads it as well, before there is a Node to run this. */
const LIST = new URL('debian-packages.txt', import.meta.url)

/**
 * The packages, by default those of Postgres, that are not installed; none on a system without
 * dpkg, where configure will tell.
 */
export function missingPackages(needed: readonly string[] = neededPackages()): string[] {
  const format = '--showformat=${Package}\\t${db:Status-Status}\\t${Provides}\\n'
  const query = spawnSync('dpkg-query', ['--show', format], {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  })
  if (query.error !== undefined) return []
  const installed = new Set<string>()
  for (const line of query.stdout.split('\n')) {
    const [name = '', status, provides = ''] = line.split('\t')
    if (status !== 'installed') continue
    installed.add(name)
    // A virtual name counts too: newer releases provide pkg-config by pkgconf.
    for (const virtual of provides.split(',')) installed.add(virtual.trim().split(' ')[0] ?? '')
  }
  return needed.filter((name) => !installed.has(name))
}

function neededPackages(): string[] {
  const lines = readFileSync(LIST, 'utf8').split('\n')
  return lines.filter((line) => line !== '' && !line.startsWith('#'))
}

/** What a user without root rights is told; nothing is asked, nothing is changed. */
export function packagesNeeded(missing: readonly string[], of = 'Postgres'): ZenithError {
  const many = missing.length === 1 ? 'a Debian package' : `${missing.length} Debian packages`
  const those = missing.length === 1 ? 'is' : 'are'
  return new ZenithError(
    'precondition_failed',
    `Building ${of} needs ${many} that ${those} not installed:\n\n` +
      `    sudo apt-get install ${missing.join(' ')}\n`,
    { hint: 'Run that line, then repeat the command.' },
  )
}

export async function installPackages(
  missing: readonly string[],
  logFile: string,
  lockFd: number,
): Promise<void> {
  const env = { DEBIAN_FRONTEND: 'noninteractive' }
  // Another apt (unattended upgrades) may be at work: wait for it.
  const apt = ['apt-get', '-q', '-o', 'DPkg::Lock::Timeout=300']
  const what = 'Installing Debian packages'
  await runLogged({ what, command: [...apt, 'update'], env, logFile, lockFd })
  const install = [...apt, 'install', '-y', '--no-install-recommends', ...missing]
  await runLogged({ what, command: install, env, logFile, lockFd })
}
