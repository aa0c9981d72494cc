/** One compute: `node compute/main.ts --spec spec.json`. Exit codes: 0 stopped, 1 crashed, 3 fenced. */
import { useCredentials } from '#libs/auth/credentials.ts'
import { runProcess } from '#libs/service.ts'
import { SupervisorHttp } from './http.ts'
import { PhaseClock } from './phase-clock.ts'
import { Reporter } from './reporter.ts'
import { roleOf } from './role.ts'
import { computeCredentials } from './safekeeper-access.ts'
import { loadSpec, specPath } from './spec.ts'
import { Supervisor } from './supervisor.ts'

runProcess('compute', async (self) => {
  const clock = new PhaseClock('loading')
  const { spec, place } = loadSpec(specPath())
  const log = self.log.child({ endpoint: spec.endpoint, timelineId: spec.timelineId })
  useCredentials(computeCredentials(spec, log))
  const reporter = new Reporter(spec, log)
  const supervisor = new Supervisor({
    spec,
    place,
    role: roleOf(spec, log),
    log,
    clock,
    report: (report) => reporter.send(report),
  })
  const http = await SupervisorHttp.listen(supervisor, spec.host, log)
  supervisor.httpPort = http.port
  self.onStop(async () => {
    supervisor.stop()
    await supervisor.ended
    // Last: until then the control plane can see that a stop is under way.
    http.close()
  })
  void supervisor.ended.then((exitCode) => self.stop(exitCode))
  clock.enter('electing')
  supervisor.start()
  log.info({ port: http.port }, 'supervisor listening')
})
