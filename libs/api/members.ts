/**
 * Who keeps the WAL of which timeline, in the control plane's HTTP API: one table of routes, part of
 * `controlRoutes`.
 */
import { routes } from '#libs/http/route.ts'
import { type Static, Type } from 'typebox'
import { controlPaths } from './control-paths.ts'
import { IdText, LsnText, NodeParams, None, Nullable, Port, TimelineParams } from './schemas.ts'

/** A safekeeper as the control plane knows it. */
export const SafekeeperNode = Type.Object({
  id: Type.Integer({ minimum: 1 }),
  host: Type.String(),
  pgPort: Port,
  httpPort: Port,
  /** `draining` takes no new timelines; `removed` is out for good. */
  state: Type.Union([Type.Literal('active'), Type.Literal('draining'), Type.Literal('removed')]),
  /** How many timelines it keeps, or is about to keep. */
  timelines: Type.Integer(),
  /** How many copies it has yet to delete. */
  deletions: Type.Integer(),
})
export type SafekeeperNode = Static<typeof SafekeeperNode>

/** What a safekeeper says when it is asked. */
export const SafekeeperLook = Type.Object({
  id: Type.Integer(),
  answers: Type.Boolean(),
  /** Bytes that it is behind the newest commit of its timelines; null while it does not answer. */
  lagBytes: Nullable(Type.Integer()),
  /** Timelines that it should keep and has no copy of: its disk was lost, or cannot be read. */
  lost: Type.Array(IdText),
})
export type SafekeeperLook = Static<typeof SafekeeperLook>

/** Who keeps a timeline, and how far a change of that is. */
export const MembershipInfo = Type.Object({
  tenantId: IdText,
  timelineId: IdText,
  branch: Type.String(),
  generation: Type.Integer(),
  safekeepers: Type.Array(Type.Integer()),
  /** Those who take over; null unless a change is under way. */
  newSafekeepers: Nullable(Type.Array(Type.Integer())),
  /** Members without a copy. */
  lacking: Type.Array(Type.Integer()),
  /** Safekeepers that have yet to delete their copy. */
  deletions: Type.Array(Type.Integer()),
  /** `done`, or the step of the change: see docs/wal-service/membership.md. */
  phase: Type.String(),
  /** While a change is driven: what is known of each member. */
  nodes: Type.Array(
    Type.Object({
      id: Type.Integer(),
      ready: Type.Boolean(),
      flushLsn: Nullable(LsnText),
      copiedBytes: Nullable(Type.Integer()),
      totalBytes: Nullable(Type.Integer()),
      problem: Nullable(Type.String()),
    }),
  ),
})
export type MembershipInfo = Static<typeof MembershipInfo>

export const memberRoutes = routes({
  listSafekeepers: {
    ...controlPaths.listSafekeepers,
    summary: 'Safekeepers with what they are for and how much they hold; the next free id',
    params: None,
    response: Type.Object({
      safekeepers: Type.Array(SafekeeperNode),
      nextId: Type.Integer(),
    }),
  },
  inspectSafekeepers: {
    ...controlPaths.inspectSafekeepers,
    summary: 'Asks each safekeeper what it has: how far behind, and what it lost',
    params: None,
    response: Type.Array(SafekeeperLook),
  },
  setSafekeeperState: {
    ...controlPaths.setSafekeeperState,
    summary: 'Let a safekeeper take new timelines or none; take an empty one out for good',
    params: NodeParams,
    body: Type.Object({
      state: SafekeeperNode.properties.state,
      /** Remove it although it has yet to delete copies. */
      force: Type.Optional(Type.Boolean()),
    }),
    response: SafekeeperNode,
  },
  listMembers: {
    ...controlPaths.listMembers,
    summary: 'Who keeps each timeline, and how far changes of that are',
    params: None,
    response: Type.Array(MembershipInfo),
  },
  getMembers: {
    ...controlPaths.getMembers,
    summary: 'Who keeps a timeline, and how far a change of that is',
    params: TimelineParams,
    response: MembershipInfo,
  },
  changeMembers: {
    ...controlPaths.changeMembers,
    summary: 'Begin to change who keeps a timeline; it goes on by itself',
    params: TimelineParams,
    body: Type.Object({
      safekeepers: Type.Array(Type.Integer({ minimum: 1 }), { minItems: 1, maxItems: 9 }),
      /** Members that lost their copy and are to be given another. */
      rebuild: Type.Optional(Type.Array(Type.Integer({ minimum: 1 }), { maxItems: 9 })),
    }),
    response: MembershipInfo,
  },
  abortMembers: {
    ...controlPaths.abortMembers,
    summary: 'Undo a change of the members that has not come into force',
    params: TimelineParams,
    body: None,
    response: MembershipInfo,
  },
})
