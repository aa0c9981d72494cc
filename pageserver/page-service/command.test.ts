import { describe, expect, test } from 'vitest'
import { parsePageCommand } from './command.ts'

const TENANT = '0123456789abcdef0123456789abcdef'
const TIMELINE = 'fedcba9876543210fedcba9876543210'

describe('page service commands', () => {
  test('the three commands', () => {
    const target = { tenantId: TENANT, timelineId: TIMELINE }
    expect(parsePageCommand(`pagestream ${TENANT} ${TIMELINE}`)).toEqual({
      kind: 'pagestream',
      ...target,
    })
    expect(parsePageCommand(`  basebackup ${TENANT}  ${TIMELINE};`)).toEqual({
      kind: 'basebackup',
      compute: 'primary',
      lsn: null,
      sparse: false,
      ...target,
    })
    expect(parsePageCommand(`fullbackup ${TENANT} ${TIMELINE} 0/16B3748`)).toEqual({
      kind: 'fullbackup',
      lsn: 0x16b3748,
      sparse: false,
      shards: null,
      ...target,
    })
  })

  test('a sparse backup, with an LSN or without', () => {
    expect(parsePageCommand(`basebackup ${TENANT} ${TIMELINE} sparse`)).toMatchObject({
      lsn: null,
      sparse: true,
    })
    expect(parsePageCommand(`basebackup ${TENANT} ${TIMELINE} 0/8 sparse`)).toMatchObject({
      lsn: 8,
      sparse: true,
    })
  })

  test('a backup for a read-only compute', () => {
    expect(parsePageCommand(`basebackup ${TENANT} ${TIMELINE} 0/8 sparse kind=static`)).toEqual({
      kind: 'basebackup',
      compute: 'static',
      lsn: 8,
      sparse: true,
      tenantId: TENANT,
      timelineId: TIMELINE,
    })
    expect(parsePageCommand(`basebackup ${TENANT} ${TIMELINE} kind=standby`)).toMatchObject({
      compute: 'standby',
      lsn: null,
      sparse: false,
    })
  })

  test.each([
    'show all',
    'SELECT 1',
    '',
    `pagestream ${TENANT}`,
    `pagestream ${TENANT} ${TIMELINE} sparse`,
    `basebackup ${TENANT} ${TIMELINE} sparse 0/0`,
    `pagestream ${TENANT} ${TIMELINE} 0/0`,
    `basebackup ${TENANT} ${TIMELINE} 0/0 more`,
    `basebackup ${TENANT} ${TIMELINE} nonsense`,
    `basebackup ${TENANT} ${TIMELINE} kind=full`,
    `basebackup ${TENANT} ${TIMELINE} color=red`,
    `basebackup ${TENANT} ${TIMELINE} kind=static kind=static`,
    `basebackup ${TENANT} ${TIMELINE} sparse sparse`,
    `fullbackup ${TENANT} ${TIMELINE} kind=static`,
    `pagestream ${TENANT} ${TIMELINE} kind=static`,
    `basebackup ${TENANT}x ${TIMELINE}`,
    `basebackup ../../etc ${TIMELINE}`,
  ])('%j is refused', (query) => {
    expect(() => parsePageCommand(query)).toThrow(
      expect.objectContaining({ code: 'invalid_argument' }),
    )
  })

  test('exports', () => {
    const tenantId = 'a'.repeat(32)
    const timelineId = 'b'.repeat(32)
    const ids = `${tenantId} ${timelineId}`
    const place = { kind: 'export', tenantId, timelineId, shards: null }
    expect(parsePageCommand(`export ${ids}`)).toEqual({ ...place, lsn: null, checksums: null })
    expect(parsePageCommand(`export ${ids} 0/10 checksums=on`)).toEqual({
      ...place,
      lsn: 16,
      checksums: true,
    })
    expect(() => parsePageCommand(`export ${ids} 0/10 checksums=maybe`)).toThrow('arguments')
    expect(() => parsePageCommand('export x')).toThrow('arguments')
  })

  test('exports and stripes of shards', () => {
    const tenantId = `${TENANT}-0002`
    const ids = `${tenantId} ${TIMELINE}`
    expect(
      parsePageCommand(`export ${ids} 0/10 checksums=off shards=ps-1.example:6400,[::1]:6401`),
    ).toEqual({
      kind: 'export',
      tenantId,
      timelineId: TIMELINE,
      lsn: 16,
      checksums: false,
      shards: [
        { host: 'ps-1.example', port: 6400 },
        { host: '::1', port: 6401 },
      ],
    })
    expect(parsePageCommand(`fullbackup ${ids} shards=a:1 sparse`)).toMatchObject({
      sparse: true,
      shards: [{ host: 'a', port: 1 }],
    })
    expect(parsePageCommand(`stripes ${ids} 0/10`)).toEqual({
      kind: 'stripes',
      tenantId,
      timelineId: TIMELINE,
      lsn: 16,
    })
    for (const wrong of [
      `stripes ${ids}`,
      `stripes ${ids} 0/10 sparse`,
      `basebackup ${ids} shards=a:1`,
      `export ${ids} shards=a:1 shards=a:1`,
      `export ${ids} shards=a`,
      `export ${ids} shards=a:0`,
      `export ${ids} shards=a:65536`,
      `export ${ids} shards=`,
      `export ${ids} shards=::1:5`,
    ]) {
      expect(() => parsePageCommand(wrong), wrong).toThrow(
        expect.objectContaining({ code: 'invalid_argument' }),
      )
    }
  })
})
