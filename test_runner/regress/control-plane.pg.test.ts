/** The control plane is killed in the middle of what it does; nothing is left half made. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, it, onTestFailed } from 'vitest'
import { callControl } from '#libs/api/control-client.ts'
import type { TenantInfo } from '#libs/api/control.ts'
import { callPageserver } from '#libs/api/pageserver.ts'
import { newTenantId } from '#libs/ids.ts'
import { Installation } from '../fixtures/installation.ts'

const SOON = { timeout: 60_000 }

async function installation(): Promise<Installation> {
  const zenith = await Installation.create()
  onTestFailed(() => console.error(zenith.logs()))
  return zenith
}

it('completes branches that a crash cut off, or frees their names', async () => {
  await using zenith = await installation()
  const main = await zenith.startCompute()
  await main.query('CREATE TABLE t AS SELECT 42 AS answer')
  const params = { tenantId: zenith.tenantId }
  const branches = () => callControl(zenith.controlUrl, 'listBranches', { params })

  for (let round = 0; round < 8; round++) {
    const name = `b${round}`
    const creation = zenith.createBranch(name).catch(() => null)
    await sleep(round * 6)
    await zenith.control.stop('SIGKILL')
    await creation
    await zenith.control.start()
    const found = (await branches()).find((branch) => branch.name === name)
    if (found === undefined) await zenith.createBranch(name)
    const state = async () => (await branches()).find((branch) => branch.name === name)?.state
    await expect.poll(state, SOON).toBe('active')
  }
  expect(await branches()).toHaveLength(9)
  expect(await main.value('SELECT answer FROM t')).toBe(42)
  for (const name of ['b0', 'b3', 'b7']) {
    const compute = await zenith.startCompute(name)
    expect(await compute.value('SELECT answer FROM t')).toBe(42)
    await compute.stop()
  }
})

it('makes many branches at once, and one of many with the same name', async () => {
  await using zenith = await installation()
  const names = Array.from({ length: 12 }, (_, index) => `many-${index}`)
  const made = await Promise.all(names.map((name) => zenith.createBranch(name)))
  expect(new Set(made.map(({ timelineId }) => timelineId)).size).toBe(12)
  const same = await Promise.allSettled(names.map(() => zenith.createBranch('same')))
  expect(same.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
  for (const result of same) {
    if (result.status === 'rejected')
      expect(result.reason).toMatchObject({ code: 'already_exists' })
  }
})

it('completes a tenant that a crash cut off', async () => {
  await using zenith = await installation()
  const tenantId = newTenantId()
  const creation = callControl(zenith.controlUrl, 'createTenant', { body: { tenantId } })
  void creation.catch(() => null)
  const tenant = async (): Promise<TenantInfo | null> =>
    callControl(zenith.controlUrl, 'getTenant', { params: { tenantId } }).catch(() => null)
  await expect.poll(async () => (await tenant())?.state, { interval: 2, ...SOON }).toBeDefined()
  await zenith.control.stop('SIGKILL')
  await zenith.control.start()
  await expect.poll(async () => (await tenant())?.state, SOON).toBe('active')
})

it('raises the generation of a tenant each time its pageserver starts', async () => {
  await using zenith = await installation()
  const compute = await zenith.startCompute()
  await compute.query('CREATE TABLE t AS SELECT generate_series(1, 1000) AS id')
  const params = { tenantId: zenith.tenantId }
  const { httpPort } = zenith.pageserverNode
  for (let generation = 2; generation < 5; generation++) {
    await zenith.pageserver.stop(generation === 3 ? 'SIGTERM' : 'SIGKILL')
    await zenith.control.stop('SIGKILL')
    await zenith.start()
    const [known] = await callControl(zenith.controlUrl, 'listTenants')
    const [held] = await callPageserver(`http://127.0.0.1:${httpPort}`, 'listTenants')
    expect(known).toMatchObject({ tenantId: params.tenantId, generation })
    expect(held).toMatchObject({ tenantId: params.tenantId, generation })
    expect(await compute.value('SELECT sum(id) FROM t')).toBe('500500')
  }
})
