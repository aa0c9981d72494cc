/**
 * A set of states by 64-bit hash: 8 bytes a state. Two states with equal hashes would be taken for
 * one; with n states the chance that this happened anywhere is about n^2 / 2^65 (one in four million
 * for three million states).
 */
const START_CAPACITY = 1 << 20

export class StateSet {
  #low = new Uint32Array(START_CAPACITY)
  #high = new Uint32Array(START_CAPACITY)
  #size = 0

  get size(): number {
    return this.#size
  }

  /** False when it was there already. */
  add(text: string): boolean {
    if (this.#size * 2 > this.#low.length) this.#grow()
    let a = 0x9e3779b9
    let b = 0x85ebca6b
    for (let index = 0; index < text.length; index += 1) {
      const unit = text.charCodeAt(index)
      a = Math.imul(a ^ unit, 0x01000193)
      b = Math.imul(b ^ unit, 0xc2b2ae35)
      b ^= b >>> 13
    }
    a = Math.imul(a ^ (a >>> 16), 0x7feb352d)
    a ^= a >>> 15
    b = Math.imul(b ^ (b >>> 15), 0x2c1b3c6d)
    b ^= b >>> 12
    return this.#insert(a >>> 0 || 1, b >>> 0)
  }

  #insert(low: number, high: number): boolean {
    const mask = this.#low.length - 1
    for (let at = (low ^ high) & mask; ; at = (at + 1) & mask) {
      if (this.#low[at] === 0) {
        this.#low[at] = low
        this.#high[at] = high
        this.#size += 1
        return true
      }
      if (this.#low[at] === low && this.#high[at] === high) return false
    }
  }

  #grow(): void {
    const [low, high] = [this.#low, this.#high]
    this.#low = new Uint32Array(low.length * 2)
    this.#high = new Uint32Array(low.length * 2)
    this.#size = 0
    for (const [at, one] of low.entries()) if (one !== 0) this.#insert(one, high[at] as number)
  }
}
