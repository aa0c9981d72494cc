import { expect, test } from 'vitest'
import { mirrorLine, parseListFile, parseSourcesFile } from './debian-mirror.ts'

const SOURCES = `Types: deb
# a comment within
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
`

test('packages as source or built', () => {
  const entries = parseSourcesFile(SOURCES)
  expect(mirrorLine(entries, 'bookworm', 'trixie', 'deb')).toMatch(/^deb \[signed-by/)
  expect(mirrorLine(entries, 'bookworm', 'trixie', 'deb-src')).toMatch(/^deb-src \[signed-by/)
})

test('the paragraph format', () => {
  const entries = parseSourcesFile(SOURCES)
  expect(entries).toHaveLength(2)
  expect(mirrorLine(entries, 'bookworm', 'trixie', 'deb-src')).toBe(
    'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ' +
      'http://mirror.example/debian trixie main\n',
  )
})

test('the one-line format', () => {
  const entries = parseListFile(
    [
      '# deb http://old.example/debian bookworm main',
      'deb http://security.example/debian-security bookworm-security main # comment',
      'deb [arch=amd64 signed-by=/etc/keys/mine.gpg] https://mirror.example/d/ bookworm main contrib',
    ].join('\n'),
  )
  expect(entries).toHaveLength(2)
  expect(mirrorLine(entries, 'bookworm', 'trixie', 'deb-src')).toBe(
    'deb-src [signed-by=/etc/keys/mine.gpg] https://mirror.example/d/ trixie main\n',
  )
})

test('mirror lists, keys within the file and trusted mirrors', () => {
  const entries = parseSourcesFile(`Types: deb deb-src
URIs: mirror+file:///etc/apt/mirrors/debian.list
Suites: trixie trixie-updates
Components: main
Trusted: yes
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEY865UxYJ
 -----END PGP PUBLIC KEY BLOCK-----
`)
  expect(mirrorLine(entries, 'trixie', 'trixie', 'deb-src')).toBe(
    'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg trusted=yes] ' +
      'mirror+file:///etc/apt/mirrors/debian.list trixie main\n',
  )
})

test('a machine without a Debian mirror', () => {
  const entries = parseListFile('deb http://archive.example/ubuntu noble main\n')
  expect(mirrorLine(entries, 'bookworm', 'trixie', 'deb-src')).toBeNull()
  expect(mirrorLine(entries, '', 'trixie', 'deb-src')).toBeNull()
})
