/**
 * Where peers listen. The stored configuration says it, as of the time when it was made; the control
 * plane knows newer addresses, since a safekeeper may come back at another port. Discovery is not
 * asked: it could name any address.
 */
import { callControl } from '#libs/api/control-client.ts'
import type { NodeInfo } from '#libs/api/node-info.ts'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { allMembers } from '#libs/protocol/quorum.ts'
import type { Member, MemberConfiguration } from '#libs/protocol/wal-push.ts'

const REFRESH_MS = 30_000
const TIMEOUT_MS = 2_000

export class PeerAddresses {
  readonly #controlPlaneUrl: string | null
  readonly #log: Logger
  #nodes = new Map<number, NodeInfo>()
  #refreshedAtMs = Number.NEGATIVE_INFINITY

  constructor(controlPlaneUrl: string | null, log: Logger) {
    this.#controlPlaneUrl = controlPlaneUrl
    this.#log = log
  }

  /** Address of a member; null for who is none. */
  async of(configuration: MemberConfiguration, id: number): Promise<Member | null> {
    const member = allMembers(configuration).find((one) => one.id === id)
    if (member === undefined) return null
    await this.#refresh()
    return this.#nodes.get(id) ?? member
  }

  async #refresh(): Promise<void> {
    const nowMs = performance.now()
    if (this.#controlPlaneUrl === null || nowMs - this.#refreshedAtMs < REFRESH_MS) return
    this.#refreshedAtMs = nowMs
    try {
      const timeoutMs = TIMEOUT_MS
      const { safekeepers } = await callControl(this.#controlPlaneUrl, 'listNodes', { timeoutMs })
      this.#nodes = new Map(safekeepers.map((node) => [node.id, node]))
    } catch (error) {
      this.#log.debug({ err: errorMessage(error) }, 'the control plane does not tell addresses')
    }
  }
}
