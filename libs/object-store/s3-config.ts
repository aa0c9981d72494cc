/** Settings of object storage in S3 or in a server that speaks its protocol. */
import { type Static, Type } from 'typebox'

const Text = Type.String({ minLength: 1 })

export const S3Config = Type.Object(
  {
    kind: Type.Literal('s3'),
    bucket: Text,
    /** Names begin with it; so that several installations may share a bucket. */
    prefix: Type.Optional(Text),
    /** Of a server other than Amazon's: `http://127.0.0.1:9000`. */
    endpoint: Type.Optional(Type.String({ pattern: '^https?://' })),
    /** Default: AWS_REGION, else us-east-1. */
    region: Type.Optional(Text),
    /** Bucket in the path instead of the host name; default: yes when there is an endpoint. */
    path_style: Type.Optional(Type.Boolean()),
    /** Both or none; without them the usual chain: AWS_* variables, profile, instance role. */
    access_key_id: Type.Optional(Text),
    secret_access_key: Type.Optional(Text),
  },
  { additionalProperties: false },
)
export type S3Config = Static<typeof S3Config>
