/**
 * Big-endian reading and writing of control messages. Every read checks the end of the message
 * first, so a cut or hostile message is an `invalid_argument` error and never a read past the end.
 */
import { ZenithError } from '../errors.ts'
import { type Lsn, readLsnBE, writeLsnBE } from '../lsn.ts'

export class ByteReader {
  readonly #buffer: Buffer
  readonly #what: string
  #offset: number

  /** `what` names the message in errors. */
  constructor(buffer: Buffer, offset: number, what: string) {
    this.#buffer = buffer
    this.#offset = offset
    this.#what = what
  }

  get remaining(): number {
    return this.#buffer.length - this.#offset
  }

  #take(length: number): number {
    const at = this.#offset
    if (length < 0 || at + length > this.#buffer.length) {
      throw new ZenithError('invalid_argument', `${this.#what} is cut short at byte ${at}`)
    }
    this.#offset = at + length
    return at
  }

  u8(): number {
    return this.#buffer.readUInt8(this.#take(1))
  }

  u16(): number {
    return this.#buffer.readUInt16BE(this.#take(2))
  }

  u32(): number {
    return this.#buffer.readUInt32BE(this.#take(4))
  }

  /** A 64-bit count or position below 2^53. */
  u64(): Lsn {
    return readLsnBE(this.#buffer, this.#take(8))
  }

  bigU64(): bigint {
    return this.#buffer.readBigUInt64BE(this.#take(8))
  }

  bigI64(): bigint {
    return this.#buffer.readBigInt64BE(this.#take(8))
  }

  /** Text up to a NUL byte, at most `maxBytes` long. */
  cstring(maxBytes: number): string {
    const end = this.#buffer.indexOf(0, this.#offset)
    if (end < 0 || end - this.#offset > maxBytes) {
      throw new ZenithError('invalid_argument', `${this.#what} holds an unterminated or long text`)
    }
    const text = this.#buffer.toString('utf8', this.#offset, end)
    this.#offset = end + 1
    return text
  }

  /** A view of the next bytes, valid as long as the message is. */
  bytes(length: number): Buffer {
    const at = this.#take(length)
    return this.#buffer.subarray(at, at + length)
  }

  /**
   * An element count: refused when above `max`, or when the message cannot hold so many elements of
   * at least `elementBytes`, before anything is allocated for them.
   */
  count(max: number, elementBytes: number): number {
    const count = this.u32()
    if (count > max || count * elementBytes > this.remaining) {
      throw new ZenithError('invalid_argument', `${this.#what} claims ${count} elements`)
    }
    return count
  }

  /** Throws when bytes are left over. */
  end(): void {
    if (this.remaining !== 0) {
      throw new ZenithError(
        'invalid_argument',
        `${this.#what} has ${this.remaining} bytes after its end`,
      )
    }
  }
}

export class ByteWriter {
  #buffer: Buffer = Buffer.allocUnsafe(256)
  #length = 0

  #reserve(size: number): number {
    const at = this.#length
    if (at + size > this.#buffer.length) {
      const grown = Buffer.allocUnsafe(Math.max(at + size, this.#buffer.length * 2))
      this.#buffer.copy(grown, 0, 0, at)
      this.#buffer = grown
    }
    this.#length = at + size
    return at
  }

  u8(value: number): this {
    const at = this.#reserve(1)
    this.#buffer.writeUInt8(value, at)
    return this
  }

  u16(value: number): this {
    const at = this.#reserve(2)
    this.#buffer.writeUInt16BE(value, at)
    return this
  }

  u32(value: number): this {
    const at = this.#reserve(4)
    this.#buffer.writeUInt32BE(value, at)
    return this
  }

  u64(value: Lsn): this {
    const at = this.#reserve(8)
    writeLsnBE(this.#buffer, value, at)
    return this
  }

  bigU64(value: bigint): this {
    const at = this.#reserve(8)
    this.#buffer.writeBigUInt64BE(value, at)
    return this
  }

  bigI64(value: bigint): this {
    const at = this.#reserve(8)
    this.#buffer.writeBigInt64BE(value, at)
    return this
  }

  cstring(text: string): this {
    if (text.includes('\0')) throw new ZenithError('invalid_argument', 'a text holds a NUL byte')
    this.bytes(Buffer.from(text))
    return this.u8(0)
  }

  bytes(source: Uint8Array): this {
    const at = this.#reserve(source.length)
    this.#buffer.set(source, at)
    return this
  }

  finish(): Buffer {
    return this.#buffer.subarray(0, this.#length)
  }
}
