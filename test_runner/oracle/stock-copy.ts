/**
 * A stock Postgres at any checkpoint of a timeline: initdb's own relation files, the rest of a full
 * backup at the timeline's first LSN, and the timeline's WAL replayed up to there. The relation
 * files come from the template that the page server imported, not from the page server.
 */
import { spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { formatLsn, type Lsn, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { connectPgWire } from '#libs/pgwire/client.ts'
import { giveTo } from '#libs/system-user.ts'
import { templateName } from '../../pageserver/import/initdb-template.ts'
import { replayWithStock } from './stock-replay.ts'

const SEGMENT_NAME = /^([0-9A-F]{24})(\.partial)?$/

export type StockCopyOptions = {
  /** Where the copies go; must be reachable for the user that Postgres runs as. */
  dir: string
  pagePort: number
  tenantId: string
  timelineId: string
  startLsn: Lsn
  /** The page server's data folder, searched for its initdb template. */
  pageserverDir: string
}

export class StockCopy {
  readonly baseDir: string
  readonly #dir: string

  private constructor(dir: string, baseDir: string) {
    this.#dir = dir
    this.baseDir = baseDir
  }

  static async create(options: StockCopyOptions): Promise<StockCopy> {
    const { tenantId, timelineId, startLsn } = options
    const baseDir = join(options.dir, 'stock-base')
    mkdirSync(baseDir, { recursive: true, mode: 0o700 })
    const client = await connectPgWire({ port: options.pagePort })
    const query = `fullbackup ${tenantId} ${timelineId} ${formatLsn(startLsn)}`
    const tar = spawn('tar', ['-x', '-C', baseDir], { stdio: ['pipe', 'inherit', 'inherit'] })
    const unpacked = new Promise<number | null>((resolve) => tar.once('exit', resolve))
    await pipeline(Readable.from(client.copyOut(query)), tar.stdin)
    await client.close()
    if ((await unpacked) !== 0) throw new Error('tar could not unpack the full backup')
    const template = findTemplate(options.pageserverDir)
    for (const folder of ['base', 'global']) {
      cpSync(join(template, folder), join(baseDir, folder), {
        recursive: true,
        filter: (path) => !path.endsWith('pg_control'),
      })
    }
    giveTo(options.dir)
    return new StockCopy(options.dir, baseDir)
  }

  /**
   * Replays the segments of `walDir` (a pg_wal or a safekeeper's folder) up to and including the
   * checkpoint record that starts at `checkpointLsn`; returns the stopped data folder.
   */
  async at(checkpointLsn: Lsn, walDir: string): Promise<string> {
    const dataDir = join(this.#dir, `stock-${formatLsn(checkpointLsn).replace('/', '-')}`)
    cpSync(this.baseDir, dataDir, { recursive: true })
    for (const name of readdirSync(walDir)) {
      const match = SEGMENT_NAME.exec(name)
      if (!match) continue
      // Postgres reads whole pages, and a segment in progress may still be shorter.
      const segment = Buffer.alloc(WAL_SEGMENT_SIZE)
      readFileSync(join(walDir, name)).copy(segment)
      writeFileSync(join(dataDir, 'pg_wal', match[1] as string), segment)
    }
    await replayWithStock({ dataDir, checkpointLsn })
    return dataDir
  }
}

function findTemplate(pageserverDir: string): string {
  const own = join(pageserverDir, 'templates', templateName(findPostgres()))
  if (existsSync(join(own, 'base'))) return own
  for (const path of readdirSync(pageserverDir, { recursive: true }) as string[]) {
    if (!path.endsWith('zenith-version')) continue
    const folder = dirname(join(pageserverDir, path))
    if (existsSync(join(folder, 'base'))) return folder
  }
  throw new Error(`no initdb template below ${pageserverDir}`)
}
