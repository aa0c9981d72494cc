/** backup_label: where redo begins for a folder that was copied while its server ran. Pure. */
import { ZenithError } from '#libs/errors.ts'
import { type Lsn, parseLsn } from '#libs/lsn.ts'

export interface BackupLabel {
  /** Redo begins here. */
  startLsn: Lsn
  /** Start of the checkpoint record that says so. */
  checkpointLsn: Lsn
}

/** Throws `corrupt` for a text without the two places, `unsupported` for backups of other kinds. */
export function parseBackupLabel(text: string): BackupLabel {
  const field = (pattern: RegExp) => pattern.exec(text)?.[1]
  const start = field(/^START WAL LOCATION: ([0-9A-F]+\/[0-9A-F]+) \(file [0-9A-F]{24}\)$/m)
  const checkpoint = field(/^CHECKPOINT LOCATION: ([0-9A-F]+\/[0-9A-F]+)$/m)
  if (start === undefined || checkpoint === undefined) {
    throw new ZenithError('corrupt', 'backup_label does not say where the backup starts')
  }
  if (/^INCREMENTAL FROM /m.test(text)) {
    throw new ZenithError('unsupported', 'the backup is an incremental one', {
      hint: 'Make a full one of it with pg_combinebackup.',
    })
  }
  const from = field(/^BACKUP FROM: (\w+)$/m) ?? 'primary'
  if (from !== 'primary') {
    throw new ZenithError('unsupported', `the backup was taken from a ${from}`, {
      hint: 'Take it from the primary: only its WAL says where the backup is complete.',
    })
  }
  const walTimeline = Number(field(/^START TIMELINE: (\d+)$/m) ?? 1)
  if (walTimeline !== 1) {
    throw new ZenithError('unsupported', `the backup is on WAL timeline ${walTimeline}, not 1`, {
      hint: 'The server was promoted at some time; dump and restore its databases instead.',
    })
  }
  return { startLsn: parseLsn(start), checkpointLsn: parseLsn(checkpoint) }
}
