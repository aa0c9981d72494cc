/** `zenith pg set` and `zenith pg settings`: the settings of one Postgres. */
import type { EndpointInfo, SettingsChange } from '#libs/api/endpoint-info.ts'
import { callControl } from '#libs/api/control-client.ts'
import { ZenithError } from '#libs/errors.ts'
import { formatTable } from '../output/table.ts'
import { CommandContext, type CommonOptions, requireRunning } from './command-context.ts'

export interface SetOptions extends CommonOptions {
  readonly reset?: readonly string[]
  readonly resetAll?: boolean
}

interface ShownSetting {
  name: string
  value: string
  source: 'zenith pg set' | 'ALTER SYSTEM'
}

export async function pgSet(
  name: string,
  words: readonly string[],
  options: SetOptions,
): Promise<void> {
  const context = new CommandContext(options)
  const change = changeOf(words, options)
  await context.change(`zenith pg set ${name}`, async (installation) => {
    requireRunning(installation)
    const params = { tenantId: context.tenantId(installation), name }
    const { endpoint, applied, restartNeeded } = await callControl(
      installation.controlUrl,
      'changeSettings',
      { params, body: change },
    )
    const settings = shownSettings(endpoint)
    context.show(
      { name, applied, restartNeeded, settings },
      summary(endpoint, applied, restartNeeded),
    )
  })
}

export async function pgSettings(name: string, options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const endpoint = await callControl(installation.controlUrl, 'getEndpoint', {
    params: { tenantId: context.tenantId(installation), name },
  })
  const settings = shownSettings(endpoint)
  const rows = settings.map((one) => [one.name, one.value, one.source])
  const text =
    rows.length === 0
      ? `Postgres ${name} has the default settings.\n`
      : formatTable(['NAME', 'VALUE', 'SET BY'], rows)
  context.show(settings, text)
}

function changeOf(words: readonly string[], options: SetOptions): SettingsChange {
  const set: Record<string, string> = {}
  const reset = [...(options.reset ?? [])]
  for (const word of words) {
    const { name, value } = parseSetting(word)
    if (value.toLowerCase() === 'default') reset.push(name)
    else set[name] = value
  }
  const resetAll = options.resetAll === true
  if (resetAll || reset.length > 0 || Object.keys(set).length > 0) return { set, reset, resetAll }
  throw new ZenithError('invalid_argument', 'There is nothing to set.', {
    hint: 'Give name=value, --reset <setting> or --reset-all.',
  })
}

/** `name=value`; the value may hold further equals signs. */
function parseSetting(word: string): { name: string; value: string } {
  const at = word.indexOf('=')
  if (at > 0) return { name: word.slice(0, at).trim(), value: word.slice(at + 1) }
  throw new ZenithError('invalid_argument', `"${word}" is not a setting.`, {
    hint: 'A setting is written as name=value.',
  })
}

/** ALTER SYSTEM wins where both have set something, as it does in Postgres. */
function shownSettings({ settings, systemSettings }: EndpointInfo): ShownSetting[] {
  const shown = new Map<string, ShownSetting>()
  for (const [name, value] of Object.entries(settings)) {
    shown.set(name, { name, value, source: 'zenith pg set' })
  }
  for (const [name, value] of Object.entries(systemSettings)) {
    shown.set(name, { name, value, source: 'ALTER SYSTEM' })
  }
  return [...shown.values()].sort((a, b) => (a.name < b.name ? -1 : 1))
}

function summary(
  { name, status }: EndpointInfo,
  applied: boolean,
  restartNeeded: readonly string[],
): string {
  if (!applied && restartNeeded.length === 0) {
    const when = status === 'stopped' ? 'at the next start' : 'when it is started again'
    return `Changed settings of postgres ${name}; they take effect ${when}.\n`
  }
  if (restartNeeded.length === 0)
    return `Changed settings of postgres ${name}, which runs with them.\n`
  return (
    `Changed settings of postgres ${name}. A restart is needed for ${restartNeeded.join(', ')}:\n` +
    `  zenith pg stop ${name}\n  zenith pg start ${name}\n`
  )
}
