/**
 * What was deleted here and must stay so: one file for each timeline, written before anything of it is
 * removed. A request that creates, copies or configures the timeline under that generation or a
 * lower one comes from somebody who has not heard of the deletion, and is refused (I24).
 *
 * `<data folder>/tombstones/<tenant>-<timeline>` holds `generation N` and a newline. A file that says
 * anything else refuses every generation, since what it said is not known any more.
 */
import { mkdir, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Tombstone } from '#libs/api/safekeeper.ts'
import { ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import { replaceFile, syncDirectory } from '../store/files.ts'

const NAME = /^([0-9a-f]{32})-([0-9a-f]{32})$/
const CONTENTS = /^generation (\d{1,10})\n$/
const EVERY_GENERATION = 4294967295

export class Tombstones {
  readonly #folder: string
  readonly #stones = new Map<string, Tombstone>()

  private constructor(folder: string) {
    this.#folder = folder
  }

  static async open(dataDir: string): Promise<Tombstones> {
    const folder = join(dataDir, 'tombstones')
    await mkdir(folder, { recursive: true })
    await syncDirectory(dataDir)
    const tombstones = new Tombstones(folder)
    for (const name of await readdir(folder)) {
      const [, tenantId, timelineId] = NAME.exec(name) ?? []
      if (tenantId === undefined || timelineId === undefined) continue
      const said = CONTENTS.exec(await readFile(join(folder, name), 'utf8'))
      const generation = said ? Number(said[1]) : EVERY_GENERATION
      tombstones.#stones.set(name, { tenantId, timelineId, generation })
    }
    return tombstones
  }

  list(): Tombstone[] {
    return [...this.#stones.values()]
  }

  /** Throws `precondition_failed` when the timeline was deleted under this generation or a higher one. */
  check(tenantId: TenantId, timelineId: TimelineId, generation: number): void {
    const stone = this.#stones.get(`${tenantId}-${timelineId}`)
    if (stone === undefined || generation > stone.generation) return
    throw new ZenithError(
      'precondition_failed',
      `timeline ${timelineId} was deleted here at generation ${stone.generation}, so it cannot come back under generation ${generation}`,
      {
        hint: 'Whoever asks knows of an older list of members; the control plane has the new one.',
      },
    )
  }

  /** Remembers a deletion, durably; a higher generation that is remembered already stays. */
  async add(tenantId: TenantId, timelineId: TimelineId, generation: number): Promise<void> {
    const name = `${tenantId}-${timelineId}`
    if ((this.#stones.get(name)?.generation ?? -1) >= generation) return
    await replaceFile(join(this.#folder, name), Buffer.from(`generation ${generation}\n`))
    this.#stones.set(name, { tenantId, timelineId, generation })
  }
}
