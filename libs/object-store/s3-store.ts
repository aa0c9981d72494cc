/**
 * Objects in S3 or in a server that speaks its protocol.
 *
 * Only what all of them share is relied on: `PUT` with `If-None-Match: *`, which the server refuses
 * with 412 when the name is taken. A reply that was lost makes the outcome of a put unknown; the SDK
 * tries again, and is then refused by its own first attempt. So callers that need to know compare
 * what is there (see `ManifestStore` and `LayerStore`), as they must with any store.
 *
 * Objects above `PART_BYTES` go in parts. Not every server heeds the condition when such an upload is
 * completed, so the name is looked up first as well. Names of large objects, layers, carry a
 * generation, so that one process alone writes them.
 */
import { createWriteStream } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  type S3ClientConfig,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import { NodeHttpHandler } from '@smithy/node-http-handler'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import {
  checkObjectName,
  type ObjectEntry,
  type ObjectListing,
  type ObjectStore,
} from './object-store.ts'
import type { S3Config } from './s3-config.ts'

/** Largest object put in one request, and the size of parts of larger ones. */
const PART_BYTES = 32 * 1024 * 1024
const PARTS_AT_ONCE = 4
/** The most that one request may name. */
const DELETES_AT_ONCE = 1000
const MAX_ATTEMPTS = 5
const MAX_SOCKETS = 64
const CONNECT_TIMEOUT_MS = 5_000
/** Of silence on a connection, not of a whole request. */
const REQUEST_TIMEOUT_MS = 30_000

export class S3ObjectStore implements ObjectStore {
  readonly #client: S3Client
  readonly #bucket: string
  /** Empty, or ends with a slash. */
  readonly #prefix: string

  constructor(config: S3Config) {
    this.#bucket = config.bucket
    this.#prefix = prefixOf(config.prefix)
    this.#client = new S3Client(clientConfig(config))
  }

  /** Throws `unavailable` or `forbidden` with the way out unless the bucket can be listed. */
  async check(): Promise<void> {
    await this.#call('list the bucket', () =>
      this.#client.send(
        new ListObjectsV2Command({ Bucket: this.#bucket, Prefix: this.#prefix, MaxKeys: 1 }),
      ),
    )
  }

  async put(name: string, body: Buffer): Promise<void> {
    const Key = this.#key(name)
    await this.#call(`put ${name}`, () =>
      this.#client.send(
        new PutObjectCommand({ Bucket: this.#bucket, Key, Body: body, IfNoneMatch: '*' }),
      ),
    )
  }

  async putFile(name: string, path: string): Promise<void> {
    const file = await open(path, 'r')
    try {
      const { size } = await file.stat()
      if (size <= PART_BYTES) await this.put(name, await readPart(file, 0, size))
      else await this.#putParts(name, file, size)
    } finally {
      await file.close()
    }
  }

  async get(name: string): Promise<Buffer> {
    const Key = this.#key(name)
    return await this.#call(`get ${name}`, async () => {
      const answer = await this.#client.send(new GetObjectCommand({ Bucket: this.#bucket, Key }))
      return await bodyOf(answer.Body, answer.ContentLength, name)
    })
  }

  async getRange(name: string, offset: number, length: number): Promise<Buffer> {
    if (length === 0) return await this.#emptyRange(name, offset)
    const Key = this.#key(name)
    const Range = `bytes=${offset}-${offset + length - 1}`
    return await this.#call(`get ${Range} of ${name}`, async () => {
      const answer = await this.#client.send(
        new GetObjectCommand({ Bucket: this.#bucket, Key, Range }),
      )
      const bytes = await bodyOf(answer.Body, answer.ContentLength, name)
      // A server answers with what there is when the range reaches beyond the end.
      if (bytes.length !== length) throw outOfRange(name, offset, length)
      return bytes
    })
  }

  async getFile(name: string, path: string): Promise<void> {
    const Key = this.#key(name)
    await this.#call(`get ${name}`, async () => {
      const answer = await this.#client.send(new GetObjectCommand({ Bucket: this.#bucket, Key }))
      let received = 0
      const body = answer.Body as Readable
      body.on('data', (chunk: Buffer) => {
        received += chunk.length
      })
      await pipeline(body, createWriteStream(path))
      if (answer.ContentLength !== undefined && received !== answer.ContentLength) {
        throw cutShort(name, received, answer.ContentLength)
      }
    })
  }

  async size(name: string): Promise<number | null> {
    const Key = this.#key(name)
    try {
      const answer = await this.#call(`look up ${name}`, () =>
        this.#client.send(new HeadObjectCommand({ Bucket: this.#bucket, Key })),
      )
      return answer.ContentLength ?? 0
    } catch (error) {
      if (error instanceof ZenithError && error.code === 'not_found') return null
      throw error
    }
  }

  async list(folder: string, options: { delimited?: boolean } = {}): Promise<ObjectListing> {
    if (folder !== '') checkObjectName(folder)
    const below = folder === '' ? this.#prefix : `${this.#prefix}${folder}/`
    const objects: ObjectEntry[] = []
    const folders: string[] = []
    for (let token: string | undefined; ; ) {
      const page = await this.#call(`list ${folder}`, () =>
        this.#client.send(
          new ListObjectsV2Command({
            Bucket: this.#bucket,
            Prefix: below,
            ...(options.delimited === true ? { Delimiter: '/' } : {}),
            ...(token === undefined ? {} : { ContinuationToken: token }),
          }),
        ),
      )
      for (const { Key = '', Size = 0 } of page.Contents ?? []) {
        objects.push({ name: Key.slice(this.#prefix.length), sizeBytes: Size })
      }
      for (const { Prefix = '' } of page.CommonPrefixes ?? []) {
        folders.push(Prefix.slice(below.length, -1))
      }
      if (page.IsTruncated !== true || page.NextContinuationToken === undefined) break
      token = page.NextContinuationToken
    }
    objects.sort((a, b) => (a.name < b.name ? -1 : 1))
    return { objects, folders: folders.sort() }
  }

  async delete(name: string): Promise<void> {
    const Key = this.#key(name)
    await this.#call(`delete ${name}`, () =>
      this.#client.send(new DeleteObjectCommand({ Bucket: this.#bucket, Key })),
    )
  }

  async deleteAll(names: readonly string[]): Promise<void> {
    const keys = names.map((name) => ({ Key: this.#key(name) }))
    for (let at = 0; at < keys.length; at += DELETES_AT_ONCE) {
      const Objects = keys.slice(at, at + DELETES_AT_ONCE)
      const { Errors = [] } = await this.#call(`delete ${Objects.length} objects`, () =>
        this.#client.send(
          new DeleteObjectsCommand({ Bucket: this.#bucket, Delete: { Objects, Quiet: true } }),
        ),
      )
      const failed = Errors.find(({ Code }) => Code !== 'NoSuchKey')
      if (failed !== undefined) {
        const { Key = '', Code = '', Message = '' } = failed
        throw new ZenithError(
          Code === 'AccessDenied' ? 'forbidden' : 'unavailable',
          `object storage did not delete ${Key.slice(this.#prefix.length)}: ${Code} ${Message}`,
        )
      }
    }
  }

  #key(name: string): string {
    checkObjectName(name)
    return this.#prefix + name
  }

  async #emptyRange(name: string, offset: number): Promise<Buffer> {
    const size = await this.size(name)
    if (size === null) throw new ZenithError('not_found', `there is no object ${name}`)
    if (offset > size) throw outOfRange(name, offset, 0)
    return Buffer.alloc(0)
  }

  async #putParts(name: string, file: FileHandle, size: number): Promise<void> {
    if ((await this.size(name)) !== null) throw taken(name)
    const target = { Bucket: this.#bucket, Key: this.#key(name) }
    await this.#call(`put ${name}`, async () => {
      const { UploadId } = await this.#client.send(new CreateMultipartUploadCommand(target))
      try {
        const Parts = await this.#uploadParts({ ...target, UploadId }, file, size)
        await this.#client.send(
          new CompleteMultipartUploadCommand({
            ...target,
            UploadId,
            MultipartUpload: { Parts },
            IfNoneMatch: '*',
          }),
        )
      } catch (error) {
        // Parts without an object cost money until somebody removes them; the error matters more.
        const abort = new AbortMultipartUploadCommand({ ...target, UploadId })
        await this.#client.send(abort).catch(() => undefined)
        throw error
      }
    })
  }

  async #uploadParts(
    target: { Bucket: string; Key: string; UploadId: string | undefined },
    file: FileHandle,
    size: number,
  ): Promise<{ PartNumber: number; ETag: string | undefined }[]> {
    const count = Math.ceil(size / PART_BYTES)
    const parts: { PartNumber: number; ETag: string | undefined }[] = []
    let next = 0
    const work = async () => {
      for (let part = next++; part < count; part = next++) {
        const Body = await readPart(
          file,
          part * PART_BYTES,
          Math.min(size, (part + 1) * PART_BYTES),
        )
        const PartNumber = part + 1
        const { ETag } = await this.#client.send(
          new UploadPartCommand({ ...target, PartNumber, Body }),
        )
        parts[part] = { PartNumber, ETag }
      }
    }
    await Promise.all(Array.from({ length: Math.min(PARTS_AT_ONCE, count) }, work))
    return parts
  }

  async #call<T>(what: string, run: () => Promise<T>): Promise<T> {
    try {
      return await run()
    } catch (error) {
      throw this.#explained(error, what)
    }
  }

  #explained(error: unknown, what: string): unknown {
    if (error instanceof ZenithError) return error
    const { name, $metadata } = error as { name?: string; $metadata?: { httpStatusCode?: number } }
    const status = $metadata?.httpStatusCode
    const where = `bucket ${this.#bucket}`
    if (name === 'NoSuchBucket') {
      return new ZenithError('precondition_failed', `there is no ${where} in object storage`, {
        hint: 'Create it, or name another one in the object_store settings.',
        cause: error,
      })
    }
    if (status === 404 || name === 'NoSuchKey' || name === 'NotFound') {
      return new ZenithError('not_found', `cannot ${what}: there is no such object in ${where}`)
    }
    if (status === 412 || name === 'PreconditionFailed' || name === 'ConditionalRequestConflict') {
      return new ZenithError('already_exists', `cannot ${what}: it exists and is never overwritten`)
    }
    if (status === 416) {
      return new ZenithError('out_of_range', `cannot ${what}: the object is shorter`)
    }
    if (status === 401 || status === 403) {
      return new ZenithError('forbidden', `object storage refuses to ${what} in ${where}`, {
        hint: 'Check the credentials (settings, AWS_* variables, profile or instance role) and the rights on the bucket.',
        cause: error,
      })
    }
    return new ZenithError(
      'unavailable',
      `object storage failed to ${what} in ${where}: ${name ?? 'error'}: ${errorMessage(error)}`,
      { cause: error },
    )
  }
}

function clientConfig(config: S3Config): S3ClientConfig {
  const { endpoint, region, path_style, access_key_id, secret_access_key } = config
  return {
    ...(endpoint === undefined ? {} : { endpoint }),
    region: region ?? process.env['AWS_REGION'] ?? 'us-east-1',
    forcePathStyle: path_style ?? endpoint !== undefined,
    ...(access_key_id !== undefined && secret_access_key !== undefined
      ? { credentials: { accessKeyId: access_key_id, secretAccessKey: secret_access_key } }
      : {}),
    maxAttempts: MAX_ATTEMPTS,
    // Layers and manifests carry checksums of their own, and other servers do not know these.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: new NodeHttpHandler({
      connectionTimeout: CONNECT_TIMEOUT_MS,
      socketTimeout: REQUEST_TIMEOUT_MS,
      httpAgent: { keepAlive: true, maxSockets: MAX_SOCKETS },
      httpsAgent: { keepAlive: true, maxSockets: MAX_SOCKETS },
    }),
  }
}

function prefixOf(prefix: string | undefined): string {
  const trimmed = (prefix ?? '').replace(/^\/+|\/+$/g, '')
  if (trimmed === '') return ''
  checkObjectName(trimmed)
  return `${trimmed}/`
}

async function readPart(file: FileHandle, start: number, end: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafeSlow(end - start)
  for (let done = 0; done < bytes.length; ) {
    const { bytesRead } = await file.read(bytes, done, bytes.length - done, start + done)
    if (bytesRead === 0) throw new ZenithError('corrupt', 'a file shrank while it was uploaded')
    done += bytesRead
  }
  return bytes
}

async function bodyOf(body: unknown, expected: number | undefined, name: string): Promise<Buffer> {
  const pieces: Buffer[] = []
  for await (const chunk of body as Readable) pieces.push(chunk as Buffer)
  const bytes = Buffer.concat(pieces)
  if (expected !== undefined && bytes.length !== expected) {
    throw cutShort(name, bytes.length, expected)
  }
  return bytes
}

function outOfRange(name: string, offset: number, length: number): ZenithError {
  return new ZenithError(
    'out_of_range',
    `bytes ${offset} to ${offset + length} lie outside object ${name}`,
  )
}

function cutShort(name: string, received: number, expected: number): ZenithError {
  return new ZenithError(
    'unavailable',
    `object ${name} was cut short: ${received} of ${expected} bytes came`,
  )
}

function taken(name: string): ZenithError {
  return new ZenithError('already_exists', `object ${name} exists and is never overwritten`)
}
