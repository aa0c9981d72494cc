/** How far an import is: one phase after the other, each with bytes done and, where known, to do. */
import type { ImportPhase } from '#libs/api/transfer.ts'

export class ImportProgress {
  phase: ImportPhase = 'waiting'
  doneBytes = 0
  totalBytes: number | null = null

  /** Begins a phase; the object returned counts for that one alone. */
  begin(phase: ImportPhase, totalBytes: number | null): { add(bytes: number): void } {
    this.phase = phase
    this.doneBytes = 0
    this.totalBytes = totalBytes
    return {
      add: (bytes) => {
        if (this.phase === phase) this.doneBytes += bytes
      },
    }
  }
}
