/**
 * The object store contract against MinIO in a container. Needs a container engine: where there is
 * none the reason is printed and the tests are skipped; `s3.pg.test.ts` runs everywhere.
 */
import { randomBytes } from 'node:crypto'
import { MinioContainer, type StartedMinioContainer } from '@testcontainers/minio'
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3'
import { getContainerRuntimeClient } from 'testcontainers'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { errorMessage } from '#libs/errors.ts'
import { objectStoreContract } from '#libs/object-store/contract-suite.ts'
import { S3ObjectStore } from '#libs/object-store/s3-store.ts'

const IMAGE = 'minio/minio:RELEASE.2025-09-07T16-13-09Z'
const BUCKET = 'zenith-tests'

const missing = await getContainerRuntimeClient().then(
  () => null,
  (error: unknown) => errorMessage(error),
)

if (missing === null) {
  describe('MinIO', () => {
    let minio: StartedMinioContainer
    beforeAll(async () => {
      minio = await new MinioContainer(IMAGE).start()
      const client = new S3Client({
        endpoint: minio.getConnectionUrl(),
        region: 'us-east-1',
        forcePathStyle: true,
        credentials: { accessKeyId: minio.getUsername(), secretAccessKey: minio.getPassword() },
      })
      await client.send(new CreateBucketCommand({ Bucket: BUCKET }))
      client.destroy()
    })
    afterAll(async () => {
      await minio?.stop()
    })
    objectStoreContract(
      'MinIO',
      async () =>
        new S3ObjectStore({
          kind: 's3',
          bucket: BUCKET,
          prefix: randomBytes(8).toString('hex'),
          endpoint: minio.getConnectionUrl(),
          access_key_id: minio.getUsername(),
          secret_access_key: minio.getPassword(),
        }),
    )
  })
} else {
  console.log(`MinIO is not tested here, since containers cannot be run: ${missing}`)
  // No container engine: see above.
  test.skip('MinIO keeps the object store contract', () => undefined)
}
