/** One compute: `node compute/main.ts --spec spec.json`. Exit codes: 0 stopped, 1 crashed, 3 fenced. */
import { setTimeout as sleep } from 'node:timers/promises'
import { runProcess } from '#libs/service.ts'
import { PhaseClock } from './phase-clock.ts'
import { createProposer } from './proposer-of-spec.ts'
import { Reporter } from './reporter.ts'
import { loadSpec, specPath } from './spec.ts'
import { Supervisor } from './supervisor.ts'

const HTTP_DELAY_MS = 1_000

runProcess('compute', async (self) => {
  const clock = new PhaseClock('loading')
  const { spec, place } = loadSpec(specPath())
  const log = self.log.child({ endpoint: spec.endpoint, timelineId: spec.timelineId })
  const reporter = new Reporter(spec, log)
  const supervisor = new Supervisor({
    spec,
    place,
    proposer: createProposer(spec, log),
    log,
    clock,
    report: (report) => reporter.send(report),
  })
  let closeHttp = async () => {}
  self.onStop(async () => {
    supervisor.stop()
    await supervisor.ended
    // Last: until then the control plane can see that a stop is under way.
    await closeHttp()
  })
  void supervisor.ended.then((exitCode) => self.stop(exitCode))
  clock.enter('electing')
  supervisor.start()

  // Loading the HTTP stack takes as long as all the rest of a start, and holds up everything else in
  // this process. It is done when Postgres serves, or while a start takes longer than usual.
  await Promise.race([supervisor.settled, sleep(HTTP_DELAY_MS)])
  const { serveHttp } = await import('./http.ts')
  const { app, port } = await serveHttp(supervisor, spec.host, log)
  closeHttp = () => app.close()
  supervisor.httpPort = port
  supervisor.report()
  log.info({ port }, 'supervisor listening')
})
