/** Whole-object copies and fingerprints of opened instances (see open-fields.ts). */

const NOTHING: ReadonlySet<string> = new Set()

/** A deep copy with the same prototypes; functions are shared. */
export function copyOf<T>(value: T): T {
  if (typeof value !== 'object' || value === null) return value
  if (Buffer.isBuffer(value)) return Buffer.from(value) as T
  if (Array.isArray(value)) return value.map(copyOf) as T
  if (value instanceof Map) {
    return new Map([...value].map(([key, one]) => [copyOf(key), copyOf(one)])) as T
  }
  if (value instanceof Set) return new Set([...value].map(copyOf)) as T
  const copy = Object.create(Object.getPrototypeOf(value) as object) as Record<string, unknown>
  for (const [name, field] of Object.entries(value)) copy[name] = copyOf(field)
  return copy as T
}

/** Text that is equal for equal states. `skip` names fields that carry no state. */
export function fingerprint(value: unknown, skip: ReadonlySet<string>): string {
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value === 'function') return 'f'
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'u'
  if (Buffer.isBuffer(value)) return `x${value.toString('latin1')}`
  if (Array.isArray(value)) return `[${value.map((one) => fingerprint(one, skip)).join()}]`
  if (value instanceof Map) return `m${fingerprint([...value], skip)}`
  if (value instanceof Set) return `s${fingerprint([...value], skip)}`
  let text = '{'
  for (const [name, field] of Object.entries(value)) {
    if (!skip.has(name)) text += `${name}:${fingerprint(field, skip)};`
  }
  return `${text}}`
}

/** Numbers values by their text, so that a state of the model is a row of small integers. */
export class Interner<T> {
  readonly #ids = new Map<string, number>()
  readonly #values: T[] = []
  /** Ids of objects seen before: transition tables give out the same ones again and again. */
  readonly #known = new WeakMap<object, number>()

  get size(): number {
    return this.#values.length
  }

  id(key: string, value: T): number {
    const known = this.#ids.get(key)
    if (known !== undefined) return known
    const id = this.#values.length
    this.#ids.set(key, id)
    this.#values.push(value)
    return id
  }

  /** As `id`, by the object's fingerprint, which is made once for each object. */
  idOf(value: T & object): number {
    const known = this.#known.get(value)
    if (known !== undefined) return known
    const id = this.id(fingerprint(value, NOTHING), value)
    this.#known.set(value, id)
    return id
  }

  value(id: number): T {
    return this.#values[id] as T
  }
}
