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
      lsn: null,
      ...target,
    })
    expect(parsePageCommand(`fullbackup ${TENANT} ${TIMELINE} 0/16B3748`)).toEqual({
      kind: 'fullbackup',
      lsn: 0x16b3748,
      ...target,
    })
  })

  test.each([
    'show all',
    'SELECT 1',
    '',
    `pagestream ${TENANT}`,
    `pagestream ${TENANT} ${TIMELINE} 0/0`,
    `basebackup ${TENANT} ${TIMELINE} 0/0 more`,
    `basebackup ${TENANT} ${TIMELINE} nonsense`,
    `basebackup ${TENANT}x ${TIMELINE}`,
    `basebackup ../../etc ${TIMELINE}`,
  ])('%j is refused', (query) => {
    expect(() => parsePageCommand(query)).toThrow(
      expect.objectContaining({ code: 'invalid_argument' }),
    )
  })
})
