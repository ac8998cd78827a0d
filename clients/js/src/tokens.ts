import { type Clock, clock } from './decisions.js'

const LONGEST_TIMER = 2 ** 31 - 1

/** The token: when there has to be another one, and whether there can be. */
export class Tokens {
  current: string | undefined
  #clock: Clock = {}
  /** It was got because another was refused, and nothing has welcomed it yet. */
  #renewed = false
  #timer: ReturnType<typeof setTimeout> | undefined

  /** `refresh` is called when most of the token's life is over, with the failures so far. */
  constructor(token: string | undefined, private readonly get: (() => string | Promise<string>) | undefined, private readonly refresh: (failures: number) => void) {
    this.hold(token)
  }

  /** As the token has it, which need not be what the service makes of it. */
  get user(): string | undefined {
    return this.#clock.user
  }

  /** Returns one that is good as far as is known; fails as the application's function does. */
  async fresh(): Promise<string | undefined> {
    if (this.get && (!this.current || Date.now() >= this.#clock.refreshAt!)) this.hold(await this.get())
    return this.current
  }

  async another(): Promise<string> {
    return this.get!()
  }

  hold(token: string | undefined): void {
    this.current = token
    this.#clock = clock(token, Date.now())
    const { refreshAt } = this.#clock
    this.rest()
    if (this.get && refreshAt) this.wait(Math.min(refreshAt - Date.now(), LONGEST_TIMER))
  }

  wait(duration: number, failures = 0): void {
    this.rest()
    this.#timer = setTimeout(() => this.refresh(failures), duration)
  }

  rest(): void {
    clearTimeout(this.#timer)
  }

  /** Whether there is, or can be had, another token than the one that was refused. */
  isRenewable(refused: string | undefined): boolean {
    return !!this.get && (refused !== this.current || !this.#renewed)
  }

  refused(token: string | undefined): void {
    if (token !== this.current) return
    this.current = undefined
    this.#renewed = true
  }

  /** What was refused before is forgotten. A refresh that was due before can be made now. */
  welcomed(): void {
    this.#renewed = false
    if (this.get && Date.now() >= this.#clock.refreshAt!) this.wait(0)
  }
}
