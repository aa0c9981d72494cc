/** `zenith branch`: the branches as a tree, or a new one. */
import { callControl } from '#libs/api/control-client.ts'
import { parsePlace } from '../branch-place.ts'
import { formatBranchTree } from '../output/branch-tree.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'

export async function branch(
  name: string | undefined,
  from: string | undefined,
  options: CommonOptions & { readonly dropSubscriptions?: boolean },
): Promise<void> {
  const context = new CommandContext(options)
  if (name === undefined) return await listBranches(context)
  const { branch: parent, ...place } = parsePlace(from ?? 'main')
  const installation = context.openRunning()
  const created = await callControl(installation.controlUrl, 'createBranch', {
    params: { tenantId: context.tenantId(installation) },
    body: {
      name,
      from: parent,
      ...place,
      ...(options.dropSubscriptions === true ? { dropSubscriptions: true } : {}),
    },
  })
  context.show(created, `Created branch '${created.name}' at ${created.branchLsn}\n`)
}

async function listBranches(context: CommandContext): Promise<void> {
  const installation = context.openRunning()
  const branches = await callControl(installation.controlUrl, 'listBranches', {
    params: { tenantId: context.tenantId(installation) },
  })
  context.show(branches, formatBranchTree(branches))
}
