/**
 * Which Debian mirror this machine uses. Postgres 17 is in a newer Debian than the machine may
 * run, so its source is fetched with a private apt configuration that names the machine's own
 * mirror and another suite. Pure: works on the text of apt's own files, in both of its formats.
 */
export interface AptEntry {
  readonly uri: string
  readonly suites: readonly string[]
  readonly components: readonly string[]
  /** Path of a keyring, or empty. */
  readonly signedBy: string
  readonly trusted: boolean
}

const DEBIAN_KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'

/**
 * The line for a private sources.list that offers packages of `suite`, as source or built, from the
 * mirror that serves the machine's own release `codename`. Null when none of the entries is a Debian
 * mirror.
 */
export function mirrorLine(
  entries: readonly AptEntry[],
  codename: string,
  suite: string,
  kind: 'deb' | 'deb-src',
): string | null {
  const own = entries.find(
    (entry) => entry.suites.includes(codename) && entry.components.includes('main'),
  )
  if (own === undefined) return null
  const options = [`signed-by=${own.signedBy || DEBIAN_KEYRING}`]
  if (own.trusted) options.push('trusted=yes')
  return `${kind} [${options.join(' ')}] ${own.uri} ${suite} main\n`
}

/** Reads the one-line format (`sources.list`): `deb [options] uri suite component...`. */
export function parseListFile(text: string): AptEntry[] {
  const entries: AptEntry[] = []
  for (const line of text.split('\n')) {
    const match = /^\s*deb(?:-src)?\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]*)/.exec(line)
    if (match === null) continue
    const options = new Map<string, string>()
    for (const option of (match[1] ?? '').split(/\s+/)) {
      const [name = '', value = ''] = option.split('=')
      options.set(name.toLowerCase(), value)
    }
    entries.push({
      uri: match[2] ?? '',
      suites: [match[3] ?? ''],
      components: words(match[4] ?? ''),
      signedBy: keyringPath(options.get('signed-by') ?? ''),
      trusted: options.get('trusted') === 'yes',
    })
  }
  return entries
}

/** Reads the paragraph format (`*.sources`): fields with values, continued by indented lines. */
export function parseSourcesFile(text: string): AptEntry[] {
  const entries: AptEntry[] = []
  const withoutComments = text.replace(/^#.*\n?/gm, '')
  for (const paragraph of withoutComments.split(/\n\s*\n/)) {
    const fields = new Map<string, string>()
    for (const field of paragraph.split(/\n(?=\S)/)) {
      const colon = field.indexOf(':')
      if (colon > 0) fields.set(field.slice(0, colon).trim().toLowerCase(), field.slice(colon + 1))
    }
    if (words(fields.get('enabled') ?? '')[0] === 'no') continue
    for (const uri of words(fields.get('uris') ?? '')) {
      entries.push({
        uri,
        suites: words(fields.get('suites') ?? ''),
        components: words(fields.get('components') ?? ''),
        signedBy: keyringPath(fields.get('signed-by') ?? ''),
        trusted: words(fields.get('trusted') ?? '')[0] === 'yes',
      })
    }
  }
  return entries
}

/** A Signed-By value may also hold a key itself or a fingerprint; then Debian's own keyring serves. */
function keyringPath(value: string): string {
  const [first = ''] = words(value)
  return first.startsWith('/') ? first : ''
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '')
}
