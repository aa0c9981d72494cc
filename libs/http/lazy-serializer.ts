/**
 * Fastify compiles a serializer for every response of every route when it starts, which is a sixth of
 * the time that a service takes to start. Most are never used, so here each is compiled when its
 * first answer is sent.
 */
import { createRequire } from 'node:module'

type Serialize = (answer: unknown) => string
type Compile = (route: { schema?: unknown }) => Serialize
type BuildCompiler = (schemas: unknown, options: unknown) => Compile

/** For fastify's option `schemaController.compilersFactory.buildSerializer`. */
export const buildLazySerializer: BuildCompiler = (schemas, options) => {
  let compile: Compile | null = null
  return (route) => {
    let serialize: Serialize | null = null
    return (answer) => {
      compile ??= fastifysCompiler()(schemas, options)
      serialize ??= compile(route)
      return serialize(answer)
    }
  }
}

/** The one that fastify uses by itself: a dependency of fastify, not of ours. */
function fastifysCompiler(): BuildCompiler {
  const requireOfFastify = createRequire(import.meta.resolve('fastify'))
  const { SerializerSelector } = requireOfFastify('@fastify/fast-json-stringify-compiler') as {
    SerializerSelector: () => BuildCompiler
  }
  return SerializerSelector()
}
