/**
 * What the control plane asks of its store, small enough that an embedded file (LMDB) and a cluster
 * store (etcd) both give it: read one record, read a range, and change several records at once if
 * none of them has changed since it was read.
 */
export interface Versioned<T> {
  readonly key: string
  readonly value: T
  /** Starts at 1 and grows with each change of the record. */
  readonly version: number
}

export interface Change {
  readonly key: string
  /** Version that the record must still have; 0 = it must not exist. */
  readonly expectedVersion: number
  /** New contents; null removes the record. */
  readonly value: unknown
}

export interface Store {
  get<T>(key: string): Promise<Versioned<T> | null>
  /** Records whose key starts with `prefix`, in key order. */
  range<T>(prefix: string): Promise<Versioned<T>[]>
  /**
   * Applies all changes or none. Resolves true when they are durable, false when a version did not
   * match; then nothing has changed and the caller reads and decides again.
   */
  compareAndSwap(changes: readonly Change[]): Promise<boolean>
  close(): Promise<void>
}
