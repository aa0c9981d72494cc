/** One compute: `node compute/main.ts --spec spec.json`. Exit codes: 0 stopped, 1 crashed, 3 fenced. */
import { setTimeout as sleep } from 'node:timers/promises'
import { runProcess } from '#libs/service.ts'
import { HttpDoor } from './http-door.ts'
import { PhaseClock } from './phase-clock.ts'
import { createProposer } from './proposer-of-spec.ts'
import { Reporter } from './reporter.ts'
import { loadSpec, specPath } from './spec.ts'
import { Supervisor } from './supervisor.ts'

/** The HTTP stack is loaded when Postgres serves, or when a start takes longer than this. */
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
  const door = await HttpDoor.listen(spec.host)
  supervisor.httpPort = door.port
  self.onStop(async () => {
    supervisor.stop()
    await supervisor.ended
    // Last: until then the control plane can see that a stop is under way.
    door.close()
  })
  void supervisor.ended.then((exitCode) => self.stop(exitCode))
  clock.enter('electing')
  supervisor.start()

  await Promise.race([supervisor.settled, sleep(HTTP_DELAY_MS)])
  const { createApp } = await import('./http.ts')
  await door.open(await createApp(supervisor, log))
  log.info({ port: door.port, ...supervisor.status().phasesMs }, 'supervisor listening')
})
