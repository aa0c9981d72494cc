/** What every command gets: where the installation is, how to print, which tenant is meant. */
import type { TenantId } from '#libs/ids.ts'
import { parseTenantId } from '#libs/ids.ts'
import { ZenithError } from '#libs/errors.ts'
import { Installation, installationDir, lockInstallation } from '../installation/installation.ts'
import { asTyped } from '../output/failure.ts'
import { processState } from '../installation/process-record.ts'

export interface CommonOptions {
  readonly dir?: string
  readonly json?: boolean
  readonly tenant?: string
}

export class CommandContext {
  readonly dir: string
  readonly json: boolean
  readonly #tenant: string | undefined

  constructor(options: CommonOptions) {
    this.dir = installationDir(options.dir)
    this.json = options.json === true
    this.#tenant = options.tenant
  }

  /** Prints text for people; nothing when JSON was asked for. */
  say(text: string): void {
    if (!this.json) process.stdout.write(`${asTyped(text)}\n`)
  }

  /** Prints data: the value as JSON, or the text for people (which ends its own lines). */
  show(value: unknown, text: string): void {
    process.stdout.write(this.json ? `${JSON.stringify(value, null, 2)}\n` : asTyped(text))
  }

  /** Tells people, beside the data, what goes with it; nothing when JSON was asked for. */
  remark(text: string): void {
    if (!this.json) process.stderr.write(asTyped(text))
  }

  open(): Installation {
    return Installation.open(this.dir)
  }

  /** Also opens one whose `init` was interrupted: what runs of it can be shown and stopped. */
  openAny(): Installation {
    return Installation.openUnfinished(this.dir) ?? this.open()
  }

  /** Opens an installation whose control plane must be up, as most commands need it. */
  openRunning(): Installation {
    const installation = this.open()
    requireRunning(installation)
    return installation
  }

  /** Runs a command that changes something, alone. `purpose` is shown to others who wait. */
  async change<T>(
    purpose: string,
    run: (installation: Installation, release: () => void) => Promise<T>,
    how: { unfinished?: boolean } = {},
  ): Promise<T> {
    const open = (): Installation => (how.unfinished === true ? this.openAny() : this.open())
    // Errors about the folder come first, before a lock file is made in it.
    open()
    const lock = await lockInstallation(this.dir, purpose)
    try {
      return await run(open(), () => lock.release())
    } finally {
      lock.release()
    }
  }

  /** The tenant named by `--tenant`, else the one that `init` made. */
  tenantId(installation: Installation): TenantId {
    return parseTenantId(this.#tenant ?? installation.settings.defaultTenant)
  }
}

export function requireRunning(installation: Installation): void {
  const state = processState(installation.control.pidFile)
  if (state.kind === 'alive') return
  if (state.kind === 'ended') {
    throw new ZenithError('unavailable', 'The control plane has crashed.', {
      hint: '"zenith status" shows the end of its log; "zenith start" starts it again.',
    })
  }
  throw new ZenithError('precondition_failed', 'Zenith is not running.', {
    hint: 'Start it with "zenith start".',
  })
}
