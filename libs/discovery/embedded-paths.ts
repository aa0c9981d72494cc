/** Where the control plane serves embedded discovery; bodies are frames of `message.ts`. */
export const DISCOVERY_PUBLISH_PATH = '/v1/discovery/publish'
export const DISCOVERY_SUBSCRIBE_PATH = '/v1/discovery/subscribe'
