/**
 * What the page server stores, by key.
 *
 * A key is (class, spc, db, rel, fork, blk): 18 bytes, big endian, so that bytes compare as keys
 * do. The first 14 bytes are the prefix; everything that shares it differs only by block number.
 *
 *   | class     | spc   | db       | rel     | fork | blk | value                                  |
 *   | RelBlock  | spc   | db       | rel     | fork | blk | 8 KiB page                             |
 *   | RelMap    | spc   | db       | 0       | 0    | 0   | pg_filenode.map, 524 bytes             |
 *   | DbDir     | 0     | 0        | 0       | 0    | 0   | pairs (spc u32 LE, db u32 LE)          |
 *   | RelSize   | spc   | db       | rel     | fork | 0   | u32 LE blocks; tombstone = dropped     |
 *   | Tablespace | spc  | 0        | 0       | 0    | 0   | its location, cstring; empty = in place |
 *   | SlruBlock | kind  | 0        | segno   | 0    | blk | 8 KiB page                             |
 *   | SlruSegSize | kind | 0       | segno   | 0    | 0   | u32 LE blocks; tombstone = dropped     |
 *   | TwoPhase  | 0     | xid high | xid low | 0    | 0   | two-phase state file; tombstone = gone |
 *   | ControlFile | 0   | 0        | 0       | 0    | 0   | initdb's pg_control                    |
 *   | Checkpoint | 0    | 0        | 0       | 0    | 0   | CheckPoint struct, 88 bytes, and extras|
 *   | AuxFile   | hash of the path, 13 bytes     | offset in the file  | path, contents (aux-file.ts) |
 *   | ReplOrigin | 0    | 0        | origin  | 0    | 0   | LSN                                    |
 *
 * RelSize is also the directory of relations: sparse, found by a scan of the class.
 */
export const KeyClass = {
  RelBlock: 0x00,
  RelMap: 0x02,
  DbDir: 0x03,
  RelSize: 0x04,
  Tablespace: 0x05,
  SlruBlock: 0x10,
  SlruSegSize: 0x11,
  TwoPhase: 0x12,
  ControlFile: 0x13,
  Checkpoint: 0x14,
  AuxFile: 0x20,
  ReplOrigin: 0x21,
} as const

export type KeyClass = (typeof KeyClass)[keyof typeof KeyClass]

/** How a stored version gives the value of its key at its LSN. */
export const ValueKind = {
  /** A WAL record; needs the value just below it. */
  Record: 0,
  /** A WAL record that initialises the page: nothing older is needed. */
  RecordInit: 1,
  /** The whole page, or the whole blob of a blob class. */
  Image: 2,
  /** A page of zeros; no bytes are stored. */
  ZeroPage: 3,
  /** The key is gone from this LSN on (blob classes only). */
  Tombstone: 4,
  /** A small operation applied in TypeScript; needs the value just below it. */
  NativeOp: 5,
} as const

export type ValueKind = (typeof ValueKind)[keyof typeof ValueKind]

/** Bytes of a page of a page class. */
export const PAGE_SIZE = 8192

/** True when reading stops here: the version needs nothing older. */
export function isBaseKind(kind: number): boolean {
  return kind !== ValueKind.Record && kind !== ValueKind.NativeOp
}

/** Classes whose values are 8 KiB pages, built from chains of versions; the rest are blobs. */
export function isPageClass(cls: number): boolean {
  return cls === KeyClass.RelBlock || cls === KeyClass.SlruBlock
}

/**
 * Auxiliary files, replication slots above all, belong to one branch and do not show in its children.
 * Replication origins do: they say how far the data has been replicated, and the data is inherited.
 */
export function isInheritedClass(cls: number): boolean {
  return cls !== KeyClass.AuxFile
}
