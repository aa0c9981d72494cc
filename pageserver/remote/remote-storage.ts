/** The page server's side of object storage that all tenants share, as one thing to build and stop. */
import type { Logger } from '#libs/log.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { AccessTimes } from './access-times.ts'
import { DeletionQueue } from './deletion-queue.ts'
import { ControlGenerations, type Generations } from './generations.ts'
import { LocalState } from './local-state.ts'

export interface RemoteStorageOptions {
  dataDir: string
  store: ObjectStore
  controlPlaneUrl: string
  pageserverId: number
  log: Logger
}

export interface RemoteStorage {
  generations: Generations
  deletions: DeletionQueue
  accesses: AccessTimes
  close: () => Promise<void>
}

/** Nothing is deleted before `deletions.start()`, which comes when the tenants are attached. */
export function openRemoteStorage(options: RemoteStorageOptions): RemoteStorage {
  const { dataDir, store, controlPlaneUrl, pageserverId, log } = options
  const state = LocalState.open(dataDir, log)
  const generations = new ControlGenerations(controlPlaneUrl, pageserverId)
  const deletions = new DeletionQueue({ state, store, generations, log })
  const close = async () => {
    await deletions.close()
    await state.close()
  }
  return { generations, deletions, accesses: new AccessTimes(state, log), close }
}
