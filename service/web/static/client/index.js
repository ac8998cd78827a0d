import { Client } from './client.js';
export { TidingsError } from './commands.js';
/** Connects, and stays connected until `close()`. */
export function connect(options) {
    return new Client(options);
}
