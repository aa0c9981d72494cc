import { describe, expect, test } from 'vitest'
import { parseBackupLabel } from './backup-label.ts'

const LABEL = `START WAL LOCATION: 0/4000028 (file 000000010000000000000004)
CHECKPOINT LOCATION: 0/4000080
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-21 15:28:08 UTC
LABEL: pg_basebackup base backup
START TIMELINE: 1
`

describe('backup_label', () => {
  test('says where redo begins', () => {
    expect(parseBackupLabel(LABEL)).toEqual({ startLsn: 0x4000028, checkpointLsn: 0x4000080 })
  })

  test('what cannot be taken in is refused', () => {
    expect(() => parseBackupLabel('')).toThrow('does not say where')
    expect(() => parseBackupLabel(LABEL.replace('CHECKPOINT', 'POINT'))).toThrow('does not say')
    expect(() => parseBackupLabel(LABEL.replace('primary', 'standby'))).toThrow('from a standby')
    expect(() => parseBackupLabel(LABEL.replace('TIMELINE: 1', 'TIMELINE: 3'))).toThrow(
      'timeline 3',
    )
    expect(() => parseBackupLabel(`${LABEL}INCREMENTAL FROM LSN: 0/3000028\n`)).toThrow(
      'incremental',
    )
  })
})
