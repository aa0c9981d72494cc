/** How `durable-file.ts` ends what it runs in: in a thread that is the thread alone. */
export const SYNC_FAILED = 70
