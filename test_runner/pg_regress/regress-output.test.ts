import { expect, test } from 'vitest'
import { normalizeDiff, parseResultLine, splitDiffs } from './regress-output.ts'

test('lines of results', () => {
  expect(
    parseResultLine('ok 1         - test_setup                                520 ms'),
  ).toEqual({
    name: 'test_setup',
    passed: true,
    durationMs: 520,
  })
  expect(
    parseResultLine('not ok 12    + boolean                                  1003 ms'),
  ).toEqual({
    name: 'boolean',
    passed: false,
    durationMs: 1003,
  })
  expect(parseResultLine('# parallel group (2 tests):  int2 int4')).toBeNull()
  expect(parseResultLine('1..225')).toBeNull()
})

const DIFFS = `diff -U3 /kit/expected/one.out /out/results/one.out
--- /kit/expected/one.out\t2026-01-01 00:00:00.0 +0000
+++ /out/results/one.out\t2026-01-02 00:00:00.0 +0000
@@ -1,3 +1,3 @@
 SELECT 1;
-1
+2 at /out/x
diff -U3 /kit/expected/two_1.out /out/results/two.out
--- /kit/expected/two_1.out\t2026-01-01 00:00:00.0 +0000
+++ /out/results/two.out\t2026-01-02 00:00:00.0 +0000
@@ -7 +7 @@ SELECT
-a
+b
`

test('differences by test', () => {
  const diffs = splitDiffs(DIFFS)
  expect([...diffs.keys()]).toEqual(['one', 'two'])
  expect(splitDiffs('')).toEqual(new Map())
})

test('what varies from run to run is taken out', () => {
  const one = splitDiffs(DIFFS).get('one') as string
  const normal = normalizeDiff(one, { '/out': '<out>' })
  expect(normal).toBe('@@\n SELECT 1;\n-1\n+2 at <out>/x\n')
  const elsewhere = one.replaceAll('/out', '/else').replace('-1,3 +1,3', '-9,3 +9,3')
  expect(normalizeDiff(elsewhere, { '/else': '<out>' })).toBe(normal)
  expect(normalizeDiff(one.replace('+2', '+3'), { '/out': '<out>' })).not.toBe(normal)
})

test('positions and process ids are taken out', () => {
  const slot = '+active_pid          | 16180\n+restart_lsn         | 0/16625838\n+1/2 of 16180'
  const normal = '+active_pid          | <pid>\n+restart_lsn         | <lsn>\n+<lsn> of 16180'
  expect(normalizeDiff(slot, {})).toBe(normal)
})
