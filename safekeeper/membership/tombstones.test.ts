import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import type { ZenithError } from '#libs/errors.ts'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { Tombstones } from './tombstones.ts'

let dataDir: string
beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), 'zenith-tombstones-'))
})
afterEach(() => rmSync(dataDir, { recursive: true }))

const [tenantId, timelineId] = [newTenantId(), newTimelineId()]

function allows(tombstones: Tombstones, generation: number): boolean {
  try {
    tombstones.check(tenantId, timelineId, generation)
    return true
  } catch (error) {
    expect((error as ZenithError).code).toBe('precondition_failed')
    return false
  }
}

it('refuse their generation and lower ones, also after a restart; the highest stays', async () => {
  const first = await Tombstones.open(dataDir)
  expect(allows(first, 1)).toBe(true)
  await first.add(tenantId, timelineId, 5)
  await first.add(tenantId, timelineId, 3)
  for (const tombstones of [first, await Tombstones.open(dataDir)]) {
    expect([4, 5, 6].map((generation) => allows(tombstones, generation))).toEqual([
      false,
      false,
      true,
    ])
    expect(tombstones.list()).toEqual([{ tenantId, timelineId, generation: 5 }])
  }
})

it('refuse everything when they cannot be read', async () => {
  const folder = join(dataDir, 'tombstones')
  await (await Tombstones.open(dataDir)).add(tenantId, timelineId, 5)
  const [name] = readdirSync(folder) as [string]
  for (const damage of ['', 'generation 5', 'generation -1\n', '\0\0\0']) {
    writeFileSync(join(folder, name), damage)
    expect(allows(await Tombstones.open(dataDir), 1_000_000)).toBe(false)
  }
  // A half-written successor is none.
  writeFileSync(join(folder, name), 'generation 5\n')
  writeFileSync(join(folder, `${name}.tmp`), 'generation 9')
  expect(allows(await Tombstones.open(dataDir), 6)).toBe(true)
})
