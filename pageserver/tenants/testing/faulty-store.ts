/** An object store over a local one that fails where and how a test says. */
import type { ObjectListing, ObjectStore } from '#libs/object-store/object-store.ts'

export type StoreCall = keyof ObjectStore

export class FaultyStore implements ObjectStore {
  readonly #store: ObjectStore
  /** Called before each operation; throwing fails it, with nothing done. */
  before: (call: StoreCall, name: string) => unknown = () => undefined
  /** Called after each operation; throwing makes it look failed although it was done. */
  after: (call: StoreCall, name: string) => unknown = () => undefined
  /** Every operation that was begun: `putFile tenants/...`. */
  readonly calls: string[] = []

  constructor(store: ObjectStore) {
    this.#store = store
  }

  heal(): void {
    this.before = () => undefined
    this.after = () => undefined
  }

  count(call: StoreCall, part = ''): number {
    return this.calls.filter((one) => one.startsWith(`${call} `) && one.includes(part)).length
  }

  put(name: string, body: Buffer): Promise<void> {
    return this.#run('put', name, () => this.#store.put(name, body))
  }

  putFile(name: string, path: string): Promise<void> {
    return this.#run('putFile', name, () => this.#store.putFile(name, path))
  }

  get(name: string): Promise<Buffer> {
    return this.#run('get', name, () => this.#store.get(name))
  }

  getRange(name: string, offset: number, length: number): Promise<Buffer> {
    return this.#run('getRange', name, () => this.#store.getRange(name, offset, length))
  }

  getFile(name: string, path: string): Promise<void> {
    return this.#run('getFile', name, () => this.#store.getFile(name, path))
  }

  size(name: string): Promise<number | null> {
    return this.#run('size', name, () => this.#store.size(name))
  }

  list(folder: string, options?: { delimited?: boolean }): Promise<ObjectListing> {
    return this.#run('list', folder, () => this.#store.list(folder, options))
  }

  delete(name: string): Promise<void> {
    return this.#run('delete', name, () => this.#store.delete(name))
  }

  deleteAll(names: readonly string[]): Promise<void> {
    return this.#run('deleteAll', names.join(' '), () => this.#store.deleteAll(names))
  }

  async #run<T>(call: StoreCall, name: string, work: () => Promise<T>): Promise<T> {
    this.calls.push(`${call} ${name}`)
    await this.before(call, name)
    const result = await work()
    await this.after(call, name)
    return result
  }
}
