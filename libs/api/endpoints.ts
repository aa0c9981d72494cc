/** Endpoints in the control plane's HTTP API: one table of routes, part of `controlRoutes`. */
import { routes } from '#libs/http/route.ts'
import { Type } from 'typebox'
import { ComputeSpec, IssuedToken } from './compute-spec.ts'
import { controlPaths } from './control-paths.ts'
import {
  EndpointInfo,
  EndpointMode,
  EndpointReport,
  Settings,
  SettingsAnswer,
  SettingsChange,
} from './endpoint-info.ts'
import { LsnText, NameParams, None, Port, TenantParams } from './schemas.ts'

export const endpointRoutes = routes({
  listEndpoints: {
    ...controlPaths.listEndpoints,
    summary: 'Endpoints with status, address and LSN; the state is checked with each compute',
    params: TenantParams,
    response: Type.Array(EndpointInfo),
  },
  createEndpoint: {
    ...controlPaths.createEndpoint,
    summary: 'Create an endpoint on a branch; its name defaults to the branch name',
    params: TenantParams,
    body: Type.Object({
      name: Type.Optional(Type.String()),
      branch: Type.String(),
      /** Default: `static` when an LSN is given, else `primary`. */
      mode: Type.Optional(EndpointMode),
      /** What a static endpoint shows; default: the end of the branch as it is now. */
      lsn: Type.Optional(LsnText),
      /** Instead of an LSN: the moment that a static endpoint shows, as ISO 8601 or psql write it. */
      at: Type.Optional(Type.String()),
      port: Type.Optional(Port),
      settings: Type.Optional(Settings),
    }),
    response: EndpointInfo,
  },
  getEndpoint: {
    ...controlPaths.getEndpoint,
    summary: 'One endpoint, its state checked with its compute',
    params: NameParams,
    response: EndpointInfo,
  },
  startEndpoint: {
    ...controlPaths.startEndpoint,
    summary: 'Mark an endpoint starting and return the spec to start its compute process with',
    params: NameParams,
    body: Type.Object({ port: Type.Optional(Port) }),
    response: ComputeSpec,
  },
  reportEndpoint: {
    ...controlPaths.reportEndpoint,
    summary: 'A compute tells its state',
    params: NameParams,
    body: EndpointReport,
    response: EndpointInfo,
  },
  renewToken: {
    ...controlPaths.renewToken,
    summary: 'A compute exchanges its token for one that lives longer, while it is the current one',
    params: NameParams,
    body: Type.Object({
      attempt: Type.Integer(),
      token: Type.String({ maxLength: 4096 }),
    }),
    response: IssuedToken,
  },
  promoteEndpoint: {
    ...controlPaths.promoteEndpoint,
    summary:
      'Make a stopped replica the primary of its branch, or one that never ran a replica again',
    params: NameParams,
    body: Type.Object({ undo: Type.Optional(Type.Boolean()) }),
    response: EndpointInfo,
  },
  stopEndpoint: {
    ...controlPaths.stopEndpoint,
    summary: 'Stop the compute cleanly and wait for it; no error when it is stopped already',
    params: NameParams,
    body: None,
    response: EndpointInfo,
  },
  changeSettings: {
    ...controlPaths.changeSettings,
    summary: 'Change settings of an endpoint; a running compute reads them at once',
    params: NameParams,
    body: SettingsChange,
    response: SettingsAnswer,
  },
  storeSystemSettings: {
    ...controlPaths.storeSystemSettings,
    summary: 'A compute tells what ALTER SYSTEM has set; durable when this answers',
    params: NameParams,
    body: Type.Object({ attempt: Type.Integer(), settings: Settings }),
    response: EndpointInfo,
  },
  deleteEndpoint: {
    ...controlPaths.deleteEndpoint,
    summary: 'Forget a stopped endpoint; its branch and data stay',
    params: NameParams,
    response: EndpointInfo,
  },
})
