/**
 * The bounded queue before the engine. The engine lets sequences wait for a place in its batch; this counts those that
 * run or wait and refuses what would make the queue longer than it may be, with a guess of when to come again.
 *
 * A request takes one place per sequence and gives each back when its sequence ends, whatever the client still has to
 * read: a slow reader holds no place.
 */
import { Clock, Effect, type Scope } from "effect"
import { type ApiError, badRequest, tooManyRequests, unavailable } from "./ApiError.ts"

/** The places of one request. */
export interface Places {
  /** Gives one place back; more than were taken are not given. */
  readonly release: Effect.Effect<void>
}

export interface Admission {
  /** Takes places until the scope closes, or as many as are released before. All or nothing. */
  readonly take: (count: number) => Effect.Effect<Places, ApiError, Scope.Scope>
  /** From now on every request is refused with 503. */
  readonly close: Effect.Effect<void>
  readonly closed: Effect.Effect<boolean>
  /** Sequences that run or wait. */
  readonly taken: Effect.Effect<number>
}

/** How fast the mean duration follows the last sequences. */
const smoothing = 0.2

export const makeAdmission = (options: { readonly running: number; readonly queue: number }): Admission => {
  const capacity = options.running + options.queue
  let taken = 0
  let closed = false
  let meanSeconds = 1

  const secondsUntilFree = (count: number): number => {
    const rounds = Math.ceil(Math.max(1, taken + count - capacity) / options.running)
    return Math.min(60, Math.max(1, Math.ceil(rounds * meanSeconds)))
  }

  /** Checks and takes in one go: no other fiber runs in between. */
  const seize = (count: number) =>
    Effect.suspend((): Effect.Effect<{ held: number }, ApiError> => {
      if (closed) return Effect.fail(unavailable("the server is shutting down", { headers: { connection: "close" } }))
      if (count > capacity)
        return Effect.fail(
          badRequest(
            `the request asks for ${count} sequences and the server holds ${capacity}; lower n or send fewer prompts`,
            { param: "n" }
          )
        )
      if (taken + count > capacity)
        return Effect.fail(
          tooManyRequests(`${taken} of ${capacity} places are taken; try again later`, {
            code: "queue_full",
            headers: { "retry-after": String(secondsUntilFree(count)) }
          })
        )
      taken += count
      return Effect.succeed({ held: count })
    })

  const take: Admission["take"] = Effect.fnUntraced(function* (count) {
    const since = yield* Clock.currentTimeMillis
    const places = yield* Effect.acquireRelease(seize(count), (places) =>
      Effect.sync(() => {
        taken -= places.held
        places.held = 0
      })
    )
    const release = Effect.map(Clock.currentTimeMillis, (now) => {
      if (places.held === 0) return
      places.held -= 1
      taken -= 1
      meanSeconds += smoothing * ((now - since) / 1000 - meanSeconds)
    })
    return { release }
  })

  return {
    take,
    close: Effect.sync(() => {
      closed = true
    }),
    closed: Effect.sync(() => closed),
    taken: Effect.sync(() => taken)
  }
}
