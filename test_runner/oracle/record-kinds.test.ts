import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { RMGR_NAMES } from '#libs/wal/format.ts'
import { RECORD_KINDS } from './record-kinds.ts'

/** Manager -> the records column of its rows; a row without a manager belongs to the one above. */
function documented(): Map<string, string> {
  const text = readFileSync(new URL('../../docs/wal-ingest.md', import.meta.url), 'utf8')
  const rows = new Map<string, string>()
  let manager = ''
  for (const line of text.split('\n')) {
    const match = /^\| (\w* ?\d*) ?\| ([^|]*) \|/.exec(line)
    if (!match) continue
    manager = match[1]?.split(' ')[0] || manager
    rows.set(manager, `${rows.get(manager) ?? ''} ${match[2]}`)
  }
  return rows
}

describe('kinds of records', () => {
  test('there are some of every resource manager', () => {
    expect(Object.keys(RECORD_KINDS).toSorted()).toEqual([...RMGR_NAMES].toSorted())
  })

  test.each(Object.entries(RECORD_KINDS))(
    'the table of the docs has those of %s',
    (rmgr, kinds) => {
      const words = documented().get(rmgr)?.split(/[ ,]+/) ?? []
      const missing = kinds.filter((kind) => !words.includes(kind.replace('+INIT', '')))
      expect(missing).toEqual([])
    },
  )
})
