/** Columns: typed arrays that grow by doubling; a bigger copy replaces the old one. */

type Column =
  | Uint8Array<ArrayBuffer>
  | Uint16Array<ArrayBuffer>
  | Uint32Array<ArrayBuffer>
  | Float64Array<ArrayBuffer>

/** A copy of `old` with room for `capacity` elements. */
export function grown<T extends Column>(old: T, capacity: number): T {
  const bigger = new (old.constructor as new (length: number) => T)(capacity)
  bigger.set(old)
  return bigger
}
