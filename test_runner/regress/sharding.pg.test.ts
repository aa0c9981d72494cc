/**
 * A branch spread over four shards on two pageservers, in stripes of 8 blocks so that even small
 * tables lie on all of them. A stock server gets the same statements and must give the same answers;
 * every page in the compute's memory must be what its shard makes of the WAL.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { callControl } from '#libs/api/control-client.ts'
import { callPageserver } from '#libs/api/pageserver.ts'
import { parseLsn } from '#libs/lsn.ts'
import { connectPgWire } from '#libs/pgwire/client.ts'
import { tenantShardId } from '#libs/sharding.ts'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { expectSameBuffers } from '../oracle/buffer-diff.ts'
