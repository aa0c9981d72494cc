/**
 * Pageservers and safekeepers make themselves known, in the control plane's HTTP API: one table of
 * routes, part of `controlRoutes`.
 */
import { routes } from '#libs/http/route.ts'
import { type Static, Type } from 'typebox'
import { AttachMode } from './attach-mode.ts'
import { IssuedToken } from './compute-spec.ts'
import { controlPaths } from './control-paths.ts'
import { NodeAddress, NodeInfo, WalSource } from './node-info.ts'
import { IdText, NodeParams, None, StripeBlocks, TenantShardText } from './schemas.ts'

export const ReAttachResponse = Type.Object({
  tenants: Type.Array(
    Type.Object({
      tenantId: TenantShardText,
      generation: Type.Integer(),
      /** Absent: `attached`. */
      mode: Type.Optional(AttachMode),
      /** Of shards only. */
      stripeBlocks: Type.Optional(StripeBlocks),
      timelines: Type.Array(
        Type.Object({ timelineId: IdText, safekeepers: Type.Array(WalSource) }),
      ),
    }),
  ),
  /** Tenants of which it keeps a warm copy, with the pageserver that serves them. */
  secondaries: Type.Optional(
    Type.Array(Type.Object({ tenantId: TenantShardText, primary: NodeAddress })),
  ),
})
export type ReAttachResponse = Static<typeof ReAttachResponse>

export const nodeRoutes = routes({
  listNodes: {
    ...controlPaths.listNodes,
    summary: 'Registered pageservers and safekeepers',
    params: None,
    response: Type.Object({
      pageservers: Type.Array(NodeInfo),
      safekeepers: Type.Array(NodeInfo),
    }),
  },
  registerPageserver: {
    ...controlPaths.registerPageserver,
    summary: 'Register a pageserver, or give it a new address',
    params: NodeParams,
    body: NodeAddress,
    response: NodeInfo,
  },
  registerSafekeeper: {
    ...controlPaths.registerSafekeeper,
    summary: 'Register a safekeeper, or give it a new address',
    params: NodeParams,
    body: NodeAddress,
    response: NodeInfo,
  },
  reAttach: {
    ...controlPaths.reAttach,
    summary: 'A pageserver started: raises the generation of each of its tenants, durably',
    params: None,
    body: Type.Object({ pageserverId: Type.Integer({ minimum: 1 }) }),
    response: ReAttachResponse,
  },
  issueNodeToken: {
    ...controlPaths.issueNodeToken,
    summary: 'A pageserver or safekeeper gets its token for its secret',
    params: None,
    body: Type.Object({
      kind: Type.Union([Type.Literal('pageserver'), Type.Literal('safekeeper')]),
      id: Type.Integer({ minimum: 1 }),
      secret: Type.String({ maxLength: 200 }),
    }),
    response: IssuedToken,
  },
})
