/**
 * Threads that work on what nobody waits for: they run when the event loop and other processes leave
 * the processor free. Linux gives each thread a niceness of its own. Threads and processes that one
 * starts inherit it, so redo processes and packers follow whom they work for.
 */
import { readlinkSync } from 'node:fs'
import { getPriority, setPriority } from 'node:os'
import { basename } from 'node:path'

/** Memory waits for it, and so does WAL in the end. */
export const FLUSH_NICENESS = 5
/** Reads get dearer while it waits, and flushes are held up in the end (compaction/flush-delay.ts). */
export const COMPACTION_NICENESS = 10

/** Makes the calling thread give way. Where a system cannot, all goes on as it is. */
export function giveWay(niceness: number): void {
  try {
    const thread = Number(basename(readlinkSync('/proc/thread-self')))
    if (getPriority(thread) < niceness) setPriority(thread, niceness)
  } catch {
    // It costs others some time, and nothing else.
  }
}
