import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { problemsOf, sourceFiles } from './tidy.ts'

function messages(path: string, text: string): string[] {
  return problemsOf({ path, text }).map(({ message }) => message)
}

describe('import borders', () => {
  test('a process imports itself and libs, by the right spelling', () => {
    expect(messages('pageserver/a.ts', "import { x } from './redo/pool.ts'\n")).toEqual([])
    expect(messages('pageserver/a.ts', "import { x } from '#libs/lsn.ts'\n")).toEqual([])
    expect(messages('pageserver/a.ts', "import { x } from '../libs/lsn.ts'\n")).toEqual([
      'imports libs/lsn.ts by a relative path: write #libs/lsn.ts',
    ])
  })

  test.each([
    ["import { x } from '../safekeeper/acceptor.ts'\n"],
    ["import type { X } from '../safekeeper/acceptor.ts'\n"],
    ["export { x } from '../safekeeper/acceptor.ts'\nconst y = 1\n"],
    ["const x = await import('../safekeeper/acceptor.ts')\n"],
    ["import '../safekeeper/acceptor.ts'\n"],
    ["import {\n  x,\n  y,\n} from '../safekeeper/acceptor.ts'\n"],
    ["type X = import('../safekeeper/acceptor.ts').X\n"],
  ])('a process does not import another one: %j', (text) => {
    expect(messages('pageserver/a.ts', text)).toEqual([
      'imports safekeeper/acceptor.ts: the process pageserver/ imports only libs/ and itself',
    ])
  })

  test('libs imports only itself; tests and entry points are imported by nobody', () => {
    expect(messages('libs/a.ts', "import { x } from '../cli/b.ts'\n")).toHaveLength(1)
    expect(messages('cli/a.ts', "import { x } from './main.ts'\n")).toHaveLength(1)
    expect(messages('cli/a.ts', "import { x } from './b.test.ts'\n")).toHaveLength(1)
    expect(messages('cli/a.ts', "import { x } from '../test_runner/b.ts'\n")).toHaveLength(1)
    expect(messages('cli/a.test.ts', "import { x } from '../test_runner/b.ts'\n")).toEqual([])
    expect(messages('cli/a.bench.ts', "import { x } from '../test_runner/b.ts'\n")).toEqual([])
    expect(messages('test_runner/a.ts', "import { x } from '../cli/b.ts'\n")).toEqual([])
    expect(messages('cli/a.ts', "import { x } from '../../elsewhere.ts'\n")).toHaveLength(1)
  })

  test('an import in a comment is no import', () => {
    expect(messages('cli/a.ts', "// import { x } from '../control/b.ts'\nconst y = 1\n")).toEqual(
      [],
    )
    expect(messages('cli/a.ts', "/* from '../control/b.ts' */\nconst y = 1\n")).toEqual([])
  })
})

test('pure files have no effects', () => {
  const path = 'safekeeper/acceptor.ts'
  expect(messages(path, "import { createHash } from 'node:crypto'\n")).toHaveLength(1)
  expect(messages(path, 'const now = Date.now()\n')).toHaveLength(1)
  expect(messages(path, 'setTimeout(() => {}, 1)\n')).toHaveLength(1)
  expect(messages(path, "import { Buffer } from 'node:buffer'\n// Date.now()\n")).toEqual([])
  expect(messages('safekeeper/main-loop.ts', 'const now = Date.now()\n')).toEqual([])
})

test('names, sizes and words', () => {
  expect(messages('libs/PageHeader.ts', 'const x = 1\n')).toHaveLength(1)
  expect(messages('libs/page_header.ts', 'const x = 1\n')).toHaveLength(1)
  expect(messages('libs/page-header.pg.test.ts', 'const x = 1\n')).toEqual([])
  expect(messages('libs/utils/page.ts', 'const x = 1\n')).toHaveLength(1)
  expect(messages('libs/index.ts', 'const x = 1\n')).toHaveLength(1)
  expect(
    messages('libs/all.ts', "export * from './lsn.ts'\nexport { x } from './a.ts'\n"),
  ).toHaveLength(1)
  expect(messages('libs/long.ts', '\n'.repeat(701))).toHaveLength(1)
  expect(messages('libs/long.test.ts', '\n'.repeat(701))).toEqual([])
  expect(messages('docs/page.md', ['TO', 'DO: write\n'].join(''))).toHaveLength(1)
  expect(messages('docs/page.md', ['see /wo', 'rk/main/x\n'].join(''))).toHaveLength(1)
  expect(messages('package-lock.json', '{"resolved": "x"}\n')).toHaveLength(1)
})

test('a problem knows its line', () => {
  const text = `const a = 1\n\nimport { x } from '../control/b.ts'\n`
  expect(problemsOf({ path: 'cli/a.ts', text })).toMatchObject([{ path: 'cli/a.ts', line: 3 }])
})

test('this work tree is seen', () => {
  const files = sourceFiles(fileURLToPath(new URL('..', import.meta.url)))
  expect(files.length).toBeGreaterThan(20)
  expect(files.map(({ path }) => path)).toContain('scripts/tidy.ts')
})
