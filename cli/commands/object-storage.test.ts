import { expect, test } from 'vitest'
import { s3ConfigOf } from './object-storage.ts'

test('without options objects stay in a folder', () => {
  expect(s3ConfigOf({})).toBeNull()
})

test.each([
  ['s3://bucket', { kind: 's3', bucket: 'bucket' }],
  ['s3://my.bucket-1/', { kind: 's3', bucket: 'my.bucket-1' }],
  ['s3://bucket/a/b/', { kind: 's3', bucket: 'bucket', prefix: 'a/b' }],
])('%s', (storage, config) => {
  expect(s3ConfigOf({ storage })).toEqual(config)
})

test('options of the server go along', () => {
  expect(
    s3ConfigOf({
      storage: 's3://bucket',
      s3Endpoint: 'http://127.0.0.1:9000',
      s3Region: 'eu-central-1',
      s3PathStyle: true,
    }),
  ).toEqual({
    kind: 's3',
    bucket: 'bucket',
    endpoint: 'http://127.0.0.1:9000',
    region: 'eu-central-1',
    path_style: true,
  })
})

test.each([
  'bucket',
  's3:/bucket',
  's3://',
  's3://Bucket',
  's3://a',
  'http://bucket/x',
  's3://b b',
])('%s is refused', (storage) => {
  expect(() => s3ConfigOf({ storage })).toThrow(/no address of a bucket/)
})

test('an endpoint without a bucket is refused', () => {
  expect(() => s3ConfigOf({ s3Endpoint: 'http://127.0.0.1:9000' })).toThrow(/no bucket/)
})
