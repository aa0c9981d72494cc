/** What happened in runs, by name: so that a batch of runs can show that it was not about nothing. */
export class Coverage {
  readonly counts = new Map<string, number>()

  count(what: string, times = 1): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + times)
  }

  get(what: string): number {
    return this.counts.get(what) ?? 0
  }
}
