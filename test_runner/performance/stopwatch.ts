/** Elapsed and processor time of a piece of work in this process. */

export interface Elapsed {
  seconds: number
  /** Processor time of the thread that called; a busy machine moves it little. */
  threadSeconds: number
  /** Of all threads of the process: compression, disk and garbage collection are in other threads. */
  processSeconds: number
}

export async function timed(work: () => unknown): Promise<Elapsed> {
  const start = performance.now()
  const thread = process.threadCpuUsage()
  const all = process.cpuUsage()
  await work()
  const seconds = (performance.now() - start) / 1000
  const sum = ({ user, system }: NodeJS.CpuUsage) => (user + system) / 1e6
  return {
    seconds,
    threadSeconds: sum(process.threadCpuUsage(thread)),
    processSeconds: sum(process.cpuUsage(all)),
  }
}
