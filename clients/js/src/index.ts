import { Client } from './client.js'
import type { Options, Tidings } from './types.js'

export { TidingsError } from './commands.js'
export type * from './types.js'

/** Connects, and stays connected until `close()`. */
export function connect(options: Options): Tidings {
  return new Client(options)
}
