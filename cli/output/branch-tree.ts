/**
 * The branches as a tree, as the original Zenith draws it:
 *
 *    main
 *    ┣━ @0/1609610: migration_check
 *    ┃  ┗━ @0/16F9A00: dev
 *    ┗━ @0/1700000: other
 */
export interface TreeBranch {
  readonly name: string
  readonly parent: string | null
  readonly branchLsn: string | null
  readonly state?: string
  readonly protected?: boolean
}

export function formatBranchTree(branches: readonly TreeBranch[]): string {
  const lines: string[] = []
  const childrenOf = (name: string): TreeBranch[] =>
    branches.filter(({ parent }) => parent === name).sort(byLsn)
  const draw = (branch: TreeBranch, indent: string): void => {
    const children = childrenOf(branch.name)
    for (const [index, child] of children.entries()) {
      const last = index === children.length - 1
      lines.push(`${indent}${last ? '┗━' : '┣━'} @${child.branchLsn ?? '?'}: ${titleOf(child)}`)
      draw(child, `${indent}${last ? '   ' : '┃  '}`)
    }
  }
  const known = new Set(branches.map(({ name }) => name))
  for (const branch of branches) {
    if (branch.parent !== null && known.has(branch.parent)) continue
    lines.push(` ${titleOf(branch)}`)
    draw(branch, ' ')
  }
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`
}

/** The name, with what is not usual about it: `dev (archived)`. */
function titleOf({ name, state = 'active', protected: isProtected }: TreeBranch): string {
  const marks = [...(state === 'active' ? [] : [state]), ...(isProtected ? ['protected'] : [])]
  return marks.length === 0 ? name : `${name} (${marks.join(', ')})`
}

function byLsn(a: TreeBranch, b: TreeBranch): number {
  const difference = lsnOf(a) - lsnOf(b)
  return difference !== 0 ? difference : a.name < b.name ? -1 : 1
}

function lsnOf({ branchLsn }: TreeBranch): number {
  const [high = '0', low = '0'] = (branchLsn ?? '0/0').split('/')
  return Number.parseInt(high, 16) * 2 ** 32 + Number.parseInt(low, 16)
}
