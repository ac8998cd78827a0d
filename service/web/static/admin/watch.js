/** For how long figures are kept. */
export const SPAN = 180_000
/** Rates over less would jump about. */
const APART = 1500
/** Over how long the latency is taken together. */
const WINDOW = 15_000

/** Looks at the service's figures, and keeps the last three minutes of them for the charts. */
export class Watch {
  samples = []
  stats = null
  #api
  #read = []

  constructor(api) {
    this.#api = api
  }

  async take() {
    if (Date.now() - (this.#read.at(-1)?.at ?? 0) < APART) return
    const [stats, text] = await Promise.all([this.#api.get('/stats'), this.#api.text('GET', '/metrics')])
    const now = { at: Date.now(), delivered: stats.total.delivered, ...figures(text) }
    const before = this.#read.at(-1)
    const alike = this.#read.filter(({ process, at }) => process === now.process && at > now.at - WINDOW)
    this.#read = [...this.#read.filter(({ at }) => at > now.at - SPAN), now]
    this.stats = stats
    this.samples = [...this.samples.filter(({ at }) => at > now.at - SPAN), {
      at: now.at,
      delivered: before ? perSecond(before, now, 'delivered') : null,
      accepted: alike.length ? perSecond(alike.at(-1), now, 'accepted') : null,
      connections: Object.values(stats.total.connections).reduce((sum, n) => sum + n, 0),
      ...(alike.length ? latency(alike[0].buckets, now.buckets) : { p50: null, p99: null }),
    }]
  }
}

/** Null where it went back: something was started anew. */
function perSecond(before, now, name) {
  const gained = now[name] - before[name]
  return gained < 0 ? null : (gained * 1000) / Math.max(now.at - before.at, 1)
}

/** Reads what the charts need out of Prometheus' text. Behind a balancer each answer may be another process'. */
function figures(text) {
  const buckets = [...text.matchAll(/^tidings_append_seconds_bucket\{le="([^"]+)"\} (\S+)$/gm)]
  const value = (name) => Number(text.match(new RegExp(`^${name} (\\S+)$`, 'm'))?.[1] ?? 0)
  return {
    process: value('process_start_time_seconds'),
    accepted: value('tidings_append_entries_sum'),
    buckets: buckets.map(([, le, n]) => ({ le: Number(le.replace('+Inf', 'Infinity')), n: Number(n) })),
  }
}

/** The latency of the appends between two looks, in seconds; null where there were none. */
function latency(before, now) {
  const since = now.map(({ le, n }, i) => ({ le, n: n - (before[i]?.n ?? 0) }))
  return { p50: quantile(since, 0.5), p99: quantile(since, 0.99) }
}

/** As Prometheus' histogram_quantile: in a straight line within a bucket. */
function quantile(buckets, q) {
  const wanted = (buckets.at(-1)?.n ?? 0) * q
  if (wanted <= 0) return null
  const i = buckets.findIndex(({ n }) => n >= wanted)
  const [from, below] = i ? [buckets[i - 1].le, buckets[i - 1].n] : [0, 0]
  const { le, n } = buckets[i]
  return le === Infinity ? from : from + (le - from) * ((wanted - below) / (n - below))
}
