/**
 * Decoders for compressed page images: pglz (common/pg_lzcompress.c) and LZ4 blocks
 * (lz4_Block_format.md). Both write exactly `outputLength` bytes or return false; they never read
 * or write outside the given ranges.
 */

/**
 * pglz: a control byte rules the next eight items, lowest bit first. 0 is a literal byte. 1 is a
 * copy: byte 0 = offset bits 11..8 and length - 3, byte 1 = offset bits 7..0, and when that length
 * is 18 a third byte is added to it.
 */
export function decompressPglz(
  input: Buffer,
  start: number,
  end: number,
  output: Buffer,
  outputLength: number,
): boolean {
  let from = start
  let to = 0
  while (from < end && to < outputLength) {
    let control = input[from] as number
    from += 1
    for (let item = 0; item < 8 && from < end && to < outputLength; item += 1, control >>= 1) {
      if ((control & 1) === 0) {
        output[to] = input[from] as number
        to += 1
        from += 1
        continue
      }
      if (end - from < 2) return false
      const first = input[from] as number
      const distance = ((first & 0xf0) << 4) | (input[from + 1] as number)
      let length = (first & 0x0f) + 3
      from += 2
      if (length === 18) {
        if (from >= end) return false
        length += input[from] as number
        from += 1
      }
      if (distance === 0 || distance > to) return false
      if (length > outputLength - to) length = outputLength - to
      to = copyBack(output, to, distance, length)
    }
  }
  return from === end && to === outputLength
}

/**
 * An LZ4 block: token (literal length, match length - 4), more length bytes while they are 255,
 * literals, distance u16, more length bytes. The last sequence ends after its literals.
 */
export function decompressLz4(
  input: Buffer,
  start: number,
  end: number,
  output: Buffer,
  outputLength: number,
): boolean {
  let from = start
  let to = 0
  while (from < end) {
    const token = input[from] as number
    from += 1
    let literals = token >> 4
    if (literals === 15) {
      let more = 255
      while (more === 255) {
        if (from >= end) return false
        more = input[from] as number
        literals += more
        from += 1
      }
    }
    if (literals > end - from || literals > outputLength - to) return false
    input.copy(output, to, from, from + literals)
    from += literals
    to += literals
    if (from === end) return to === outputLength
    if (end - from < 2) return false
    const distance = (input[from] as number) | ((input[from + 1] as number) << 8)
    from += 2
    let length = (token & 15) + 4
    if (length === 19) {
      let more = 255
      while (more === 255) {
        if (from >= end) return false
        more = input[from] as number
        length += more
        from += 1
      }
    }
    if (distance === 0 || distance > to || length > outputLength - to) return false
    to = copyBack(output, to, distance, length)
  }
  return false
}

/** Copies from `distance` back; source and target may overlap, which repeats a pattern. */
function copyBack(output: Buffer, at: number, distance: number, length: number): number {
  let to = at
  let from = at - distance
  if (distance >= length) {
    output.copyWithin(to, from, from + length)
    return to + length
  }
  for (const stop = to + length; to < stop; to += 1, from += 1) output[to] = output[from] as number
  return to
}
