/**
 * A warm copy of a tenant that another page server serves: asks the primary now and then which layer
 * files it has on disk, and copies those from object storage. Attaching the tenant here finds them.
 *
 * The copies are only a cache: a primary that does not answer leaves them as they are, and a file
 * that does not match the manifest is fetched again when the tenant is attached.
 */
import { mkdir, open, readdir, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Heatmap, SecondaryInfo } from '#libs/api/pageserver-location.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { parseTimelineId, type TenantId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { renameDurably } from '#libs/object-store/durable-file.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { parseTenantShardId } from '#libs/sharding.ts'
import { FOOTER_SIZE, footerCrc } from '../layers/layer-format.ts'
import { localFolder } from '../remote/paths.ts'
import { isParentOf } from '../tenants/split.ts'

const PAUSE_MS = 5_000
const DOWNLOADS_AT_ONCE = 4
const TEMP = '.warm~'

export interface SecondaryOptions {
  tenantId: TenantId
  /** Data folder of the page server. */
  folder: string
  store: ObjectStore
  /** Asks the primary. */
  heatmap: () => Promise<Heatmap>
  log: Logger
  /** Between two looks; default 5 s. */
  pauseMs?: number
}

type HotLayer = Heatmap['timelines'][number]['layers'][number]

export class Secondary {
  readonly #options: SecondaryOptions
  readonly #stopping = new AbortController()
  #nudge = new AbortController()
  #running: Promise<void> | null = null
  #info: SecondaryInfo = {
    layers: null,
    bytes: null,
    missingLayers: null,
    missingBytes: null,
    lastError: null,
  }

  constructor(options: SecondaryOptions) {
    this.#options = options
  }

  /** How warm the copy is. */
  get info(): SecondaryInfo {
    return this.#info
  }

  /** Begins to copy, in the background. */
  start(): void {
    this.#running ??= this.#run()
  }

  /** Looks again now. */
  nudge(): void {
    this.#nudge.abort()
  }

  /** Resolves when nothing is written any more; what is there stays. */
  async stop(): Promise<void> {
    this.#stopping.abort()
    this.#nudge.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { log, tenantId } = this.#options
    while (!this.#stopping.signal.aborted) {
      this.#nudge = new AbortController()
      try {
        await this.#refresh(await this.#options.heatmap())
        this.#info = { ...this.#info, lastError: null }
      } catch (error) {
        const lastError = errorMessage(error)
        if (lastError !== this.#info.lastError && !this.#stopping.signal.aborted) {
          log.warn({ tenantId, reason: lastError }, 'a warm copy could not be brought up to date')
        }
        this.#info = { ...this.#info, lastError }
      }
      const signal = AbortSignal.any([this.#nudge.signal, this.#stopping.signal])
      await sleep(this.#options.pauseMs ?? PAUSE_MS, undefined, { signal }).catch(() => undefined)
    }
  }

  async #refresh({ timelines }: Heatmap): Promise<void> {
    const { folder, tenantId } = this.#options
    const parent = dirname(localFolder(folder, tenantId, parseTimelineId('0'.repeat(32))))
    const known = new Set(timelines.map(({ timelineId }) => timelineId))
    for (const name of await filesOf(parent)) {
      if (!known.has(name)) await rm(join(parent, name), { recursive: true, force: true })
    }
    const missing: { path: string; layer: HotLayer }[] = []
    let layers = 0
    let bytes = 0
    for (const timeline of timelines) {
      const own = localFolder(folder, tenantId, parseTimelineId(timeline.timelineId))
      await mkdir(own, { recursive: true })
      const wanted = new Set(timeline.layers.map(({ file }) => file))
      for (const name of await filesOf(own)) {
        if (!wanted.has(name)) await rm(join(own, name), { force: true })
      }
      for (const layer of timeline.layers) {
        checkNames(tenantId, layer)
        layers += 1
        bytes += layer.sizeBytes
        const path = join(own, layer.file)
        if ((await sizeOf(path)) !== layer.sizeBytes) missing.push({ path, layer })
      }
    }
    const left = () => missing.reduce((sum, { layer }) => sum + layer.sizeBytes, 0)
    const note = () => {
      const missingLayers = missing.length
      this.#info = { ...this.#info, layers, bytes, missingLayers, missingBytes: left() }
    }
    note()
    const work = async () => {
      for (let next = missing[0]; next; next = missing[0]) {
        missing.shift()
        if (this.#stopping.signal.aborted) return
        await this.#download(next.path, next.layer).catch((error: unknown) => {
          // The primary has replaced it meanwhile: the next list will not have it.
          if (!(error instanceof ZenithError) || error.code !== 'not_found') throw error
        })
        note()
      }
    }
    // All end before the next look, which would otherwise write the same files.
    const results = await Promise.allSettled(Array.from({ length: DOWNLOADS_AT_ONCE }, work))
    note()
    for (const result of results) if (result.status === 'rejected') throw result.reason
  }

  async #download(path: string, layer: HotLayer): Promise<void> {
    const temp = `${path}${TEMP}`
    try {
      await rm(temp, { force: true })
      await this.#options.store.getFile(layer.object, temp)
      await checkFile(temp, layer)
      await renameDurably(temp, path)
    } finally {
      await rm(temp, { force: true })
    }
  }
}

/**
 * What the primary says becomes a path here, and an object to read: it stays within the tenant, or is
 * with a shard that this one was split from.
 */
function checkNames(tenantId: TenantId, { file, object }: HotLayer): void {
  const [, name = ''] = /^tenants\/([0-9a-f-]+)\/timelines\//.exec(object) ?? []
  const isOwn = name === tenantId || (name !== '' && isParentOf(parseTenantShardId(name), tenantId))
  if (/^[0-9A-Za-z_-][0-9A-Za-z_.-]*$/.test(file) && isOwn) return
  throw new ZenithError('corrupt', `the primary names a layer file "${file}" of object "${object}"`)
}

async function checkFile(path: string, layer: HotLayer): Promise<void> {
  const file = await open(path, 'r')
  try {
    const { size } = await file.stat()
    const footer = Buffer.alloc(FOOTER_SIZE)
    if (size >= FOOTER_SIZE) await file.read(footer, 0, FOOTER_SIZE, size - FOOTER_SIZE)
    if (size !== layer.sizeBytes || footerCrc(footer) !== layer.crc) {
      throw new ZenithError('corrupt', `object ${layer.object} is not the layer that was asked for`)
    }
    await file.sync()
  } finally {
    await file.close()
  }
}

async function sizeOf(path: string): Promise<number | null> {
  return await stat(path).then(
    ({ size }) => size,
    () => null,
  )
}

async function filesOf(folder: string): Promise<string[]> {
  return await readdir(folder).catch(() => [])
}
