/** A scratch folder for layer files, for tests of layers and reads that need no timeline. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll } from 'vitest'
import { LocalObjectStore } from '#libs/object-store/local-store.ts'
import type { SlotTable } from '../../keyspace/slot-table.ts'
import { ChunkCache } from '../chunk-cache.ts'
import type { LayerContext } from '../layer.ts'
import { type LayerId, layerName } from '../layer-name.ts'
import { LayerWriter } from '../layer-writer.ts'

const OWNER = {
  tenantId: '0123456789abcdef0123456789abcdef',
  timelineId: 'fedcba9876543210fedcba9876543210',
  pgVersion: 170011,
}

export class LayerFolder {
  #path = ''

  /** Made before the tests of the file begin, removed after them. */
  constructor(name: string) {
    beforeAll(async () => {
      this.#path = await mkdtemp(join(tmpdir(), `${name}-`))
    })
    afterAll(async () => {
      await rm(this.#path, { recursive: true, force: true })
    })
  }

  /** What layers that are opened here share. */
  context(slots: SlotTable, cacheBytes: number): LayerContext {
    return {
      folder: this.#path,
      objectFolder: () => 'none',
      store: new LocalObjectStore(join(this.#path, 'objects')),
      slots,
      cache: new ChunkCache(cacheBytes),
    }
  }

  /** Begins a layer file of this name. */
  writer(id: LayerId, slots: SlotTable): Promise<LayerWriter> {
    return LayerWriter.create(join(this.#path, layerName(id)), id, OWNER, slots)
  }
}
