/** The peers of all timelines of a safekeeper; without discovery nobody is ever heard. */
import { type TimelineKey, timelineKeyText } from '#libs/discovery/message.ts'
import { PeerTable } from './peer-table.ts'

export class PeerTables {
  readonly #ownId: number
  readonly #tables = new Map<string, PeerTable>()

  constructor(ownId: number) {
    this.#ownId = ownId
  }

  /** The table of a timeline, made when there is none yet. */
  of(key: TimelineKey): PeerTable {
    const name = timelineKeyText(key)
    const table = this.#tables.get(name) ?? new PeerTable(this.#ownId)
    this.#tables.set(name, table)
    return table
  }

  forget(key: TimelineKey): void {
    this.#tables.delete(timelineKeyText(key))
  }
}
