/** The part of a route's schema that every handler gives. */
export function answer<R>(route: { summary: string; response: R }): {
  summary: string
  response: { 200: R }
} {
  return { summary: route.summary, response: { 200: route.response } }
}
