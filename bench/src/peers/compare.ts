/**
 * The comparison: every side prepares a case, all results are held against ours, then the sides take turns, the order moving on
 * by one each round, so that a busy moment of the machine falls on all of them alike.
 */
import { Clock, Effect, type Scope } from "effect"
import { type Chain, PeerError, type Prompts, type Side, type TinyModel, type TinyShape } from "./Peer.ts"
import { noise, randomArray, randomModel } from "./tinyModel.ts"

export interface SideResult {
  /** Seconds of one run. */
  readonly median: number
  readonly min: number
  /** Median of the processor seconds of this process in one run: with a software driver that is all of the work. */
  readonly cpu: number
  /** Against our result: largest absolute difference (matrices, states), or share of equal tokens. */
  readonly difference?: number
  readonly sameTokens?: number
}

export interface CaseResult {
  readonly name: string
  /** Floating-point operations or tokens of one run, and what they are. */
  readonly work: number
  readonly unit: "flop" | "tokens"
  readonly sides: Readonly<Record<string, SideResult>>
  /** Sides that could not do the case, with the reason. */
  readonly failed: Readonly<Record<string, string>>
  /** The fastest other side by median. */
  readonly best: string | null
  /** Its median over ours (above 1: we are faster), the same of the minima, and of the least processor time of a peer. */
  readonly ratio: number | null
  readonly ratioOfMinima: number | null
  readonly ratioOfCpu: number | null
}

/** Seconds of one run by the clock, and of the process's threads together, which other processes disturb much less. */
interface Sample {
  readonly wall: number
  readonly cpu: number
}
type Samples = ReadonlyMap<string, ReadonlyArray<Sample>>

const middle = (values: ReadonlyArray<number>): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN

const walls = (samples: ReadonlyArray<Sample>) => samples.map(({ wall }) => wall)
const cpus = (samples: ReadonlyArray<Sample>) => samples.map(({ cpu }) => cpu)

/** Rounds of `work(side, round)` in moving order; the first, unmeasured one is the warm-up. */
const takeTurns = Effect.fnUntraced(function* (
  sides: ReadonlyArray<Side>,
  rounds: number,
  work: (side: Side, round: number) => Effect.Effect<unknown, PeerError>
) {
  const runners = sides.map((side) => ({ side, samples: [] as Sample[] }))
  for (let round = 0; round <= rounds; round++) {
    for (let i = 0; i < runners.length; i++) {
      const runner = runners[(i + round) % runners.length]
      if (runner === undefined) continue
      const [started, before] = [yield* Clock.currentTimeNanos, process.cpuUsage()]
      yield* work(runner.side, round)
      const { user, system } = process.cpuUsage(before)
      const wall = Number((yield* Clock.currentTimeNanos) - started) / 1e9
      if (round > 0) runner.samples.push({ wall, cpu: (user + system) / 1e6 })
    }
  }
  const all: Samples = new Map(runners.map(({ side, samples }) => [side.name, samples]))
  return all
})

/** Splits prepared sides from those that failed. */
const prepareAll = <A>(sides: ReadonlyArray<Side>, prepare: (side: Side) => Effect.Effect<A, PeerError, Scope.Scope>) =>
  Effect.gen(function* () {
    const ready = new Map<Side, A>()
    const failed: Record<string, string> = {}
    for (const side of sides) {
      yield* prepare(side).pipe(
        Effect.match({
          onSuccess: (made) => void ready.set(side, made),
          onFailure: (error) => void (failed[side.name] = error.message)
        })
      )
    }
    return { ready, failed }
  })

const summarise = (
  name: string,
  work: number,
  unit: CaseResult["unit"],
  samples: Samples,
  checks: ReadonlyMap<string, Pick<SideResult, "difference" | "sameTokens">>,
  failed: Readonly<Record<string, string>>
): CaseResult => {
  const sides: Record<string, SideResult> = {}
  for (const [side, of] of samples) {
    const wall = walls(of)
    sides[side] = { median: middle(wall), min: Math.min(...wall), cpu: middle(cpus(of)), ...checks.get(side) }
  }
  const others = Object.entries(sides).filter(([side]) => side !== "srcode")
  const mine = sides.srcode
  const fastest = (of: (r: SideResult) => number) =>
    others.reduce((best, [, r]) => Math.min(best, of(r)), Number.POSITIVE_INFINITY)
  const byMedian = fastest((r) => r.median)
  const best = others.find(([, r]) => r.median === byMedian)?.[0] ?? null
  const usable = mine !== undefined && best !== null
  return {
    name,
    work,
    unit,
    sides,
    failed,
    best,
    ratio: usable ? byMedian / mine.median : null,
    ratioOfMinima: usable ? fastest((r) => r.min) / mine.min : null,
    ratioOfCpu: usable ? fastest((r) => r.cpu) / mine.cpu : null
  }
}

const largestDifference = (a: Float32Array, b: Float32Array): number => {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY
  let worst = 0
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs((a[i] ?? 0) - (b[i] ?? 0))
    worst = d <= worst ? worst : d
  }
  return worst
}

/** A side whose numbers are not ours does other work: it must not be timed. */
const refuse = (side: Side, operation: string, what: string) =>
  new PeerError({ side: side.name, operation, detail: `its result is not ours (${what}); nothing was timed` })

const compareArrays = Effect.fnUntraced(function* (
  name: string,
  work: number,
  unit: CaseResult["unit"],
  rounds: number,
  tolerance: number,
  prepared: {
    readonly ready: ReadonlyMap<Side, Effect.Effect<Float32Array, PeerError>>
    readonly failed: Record<string, string>
  }
) {
  const checks = new Map<string, { difference: number }>()
  let reference: Float32Array | undefined
  const usable = new Map<Side, Effect.Effect<Float32Array, PeerError>>()
  for (const [side, run] of prepared.ready) {
    yield* run.pipe(
      Effect.flatMap((out) => {
        reference ??= out
        const difference = largestDifference(reference, out)
        if (!(difference <= tolerance)) return Effect.fail(refuse(side, name, `they differ by ${difference}`))
        checks.set(side.name, { difference })
        usable.set(side, run)
        return Effect.void
      }),
      Effect.catch((error) => Effect.sync(() => void (prepared.failed[side.name] = error.message)))
    )
  }
  const samples = yield* takeTurns([...usable.keys()], rounds, (side) => usable.get(side) ?? Effect.void)
  return summarise(name, work, unit, samples, checks, prepared.failed)
})

export const compareChain = (
  sides: ReadonlyArray<Side>,
  rounds: number,
  work: Pick<Chain, "layout" | "m" | "k" | "repeats">
) =>
  Effect.gen(function* () {
    const { m, k, repeats, layout } = work
    const a = randomArray(m * k, 1, 1)
    const b = randomArray(k * k, 2, 1 / Math.sqrt(k))
    const prepared = yield* prepareAll(sides, (side) => side.chain({ ...work, a, b }))
    const flop = 2 * m * k * k * repeats
    return yield* compareArrays(`matmul ${layout} ${m}x${k}x${k}`, flop, "flop", rounds, 1e-3, prepared)
  }).pipe(Effect.scoped)

const randomPrompts = (shape: TinyShape, batch: number, length: number, seed: number): Prompts => {
  const next = noise(seed)
  return Array.from({ length: batch }, () =>
    Array.from({ length }, () => Math.floor(((next() + 1) / 2) * shape.vocab) % shape.vocab)
  )
}

/** One pass over `tokens` tokens without a cache: embedding, layers, final norm. */
export const compareForward = (
  sides: ReadonlyArray<Side>,
  rounds: number,
  name: string,
  shape: TinyShape,
  tokens: ReadonlyArray<number>
) =>
  Effect.gen(function* () {
    const model = randomModel(shape, 1)
    const { ready, failed } = yield* prepareAll(sides, (side) => side.decoder(model, "hidden"))
    const results: Array<CaseResult> = []
    for (const length of tokens) {
      const prompts = randomPrompts(shape, 1, length, length)
      const runs = new Map([...ready].map(([side, decoder]) => [side, decoder.hidden(prompts)] as const))
      results.push(
        yield* compareArrays(`${name}, ${length} tokens`, length, "tokens", rounds, 1e-2, {
          ready: runs,
          failed: { ...failed }
        })
      )
    }
    return results
  }).pipe(Effect.scoped)

/**
 * Prefill and greedy decoding with a cache. Every round has prompts of its own, so that no side can reuse an earlier one's
 * work. Decoding is the time of `prompt + new tokens` less that of the prompt with one token.
 */
export const compareGeneration = (
  sides: ReadonlyArray<Side>,
  rounds: number,
  shape: TinyShape,
  sizes: { readonly batch: number; readonly prompt: number; readonly fresh: number }
) =>
  Effect.gen(function* () {
    const { batch, prompt, fresh } = sizes
    const model: TinyModel = randomModel(shape, 2)
    const { ready, failed } = yield* prepareAll(sides, (side) => side.decoder(model, "generate"))
    const checks = new Map<string, { sameTokens: number }>()
    let reference: ReadonlyArray<number> | undefined
    const promptsOf = (round: number) => randomPrompts(shape, batch, prompt, 1000 + round)
    for (const [side, decoder] of ready) {
      yield* decoder.generate(promptsOf(0), 1 + fresh).pipe(
        Effect.flatMap((rows) => {
          const tokens = rows.flat()
          reference ??= tokens
          const same = tokens.filter((id, i) => id === reference?.[i]).length / reference.length
          checks.set(side.name, { sameTokens: same })
          return same >= 0.9 ? Effect.void : Effect.fail(refuse(side, "generate", `${same} of the tokens agree`))
        }),
        Effect.catch((error) =>
          Effect.sync(() => {
            failed[side.name] = error.message
            ready.delete(side)
          })
        )
      )
    }
    const prefill = yield* takeTurns(
      [...ready.keys()],
      rounds,
      (side, round) => ready.get(side)?.generate(promptsOf(1000 + round), 1) ?? Effect.void
    )
    const whole = yield* takeTurns(
      [...ready.keys()],
      rounds,
      (side, round) => ready.get(side)?.generate(promptsOf(2000 + round), 1 + fresh) ?? Effect.void
    )
    // Less the quickest prefill: never to our credit, nor anyone's, that a prefill was disturbed.
    const decode = new Map(
      [...whole].map(([side, samples]) => {
        const first = prefill.get(side) ?? []
        const [wall, cpu] = [Math.min(...walls(first)), Math.min(...cpus(first))]
        return [side, samples.map((s): Sample => ({ wall: s.wall - wall, cpu: s.cpu - cpu }))] as const
      })
    )
    const label = (what: string) => `${what}, batch ${batch}, prompt ${prompt}`
    return [
      summarise(label("prefill"), batch * prompt, "tokens", prefill, checks, failed),
      summarise(label(`decode ${fresh}`), batch * fresh, "tokens", decode, checks, failed)
    ]
  }).pipe(Effect.scoped)
