/** Methods and paths of the routes in `generations.ts`, without their schemas. */
export const generationPaths = {
  validateGenerations: { method: 'POST', path: '/v1/pageserver/:id/validate' },
} as const
