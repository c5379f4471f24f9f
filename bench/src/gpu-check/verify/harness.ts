/**
 * Holds every variant of an operation against its oracle in double precision on this device, outside of any test runner,
 * so that a machine with a GPU needs nothing but Node.
 *
 * A case records an operation with the `Ops` it is given. It is run once for each set of capabilities that leads to
 * other kernels; results are compared element by element: |x − y| ≤ tolerance · (|y| + rms(y)).
 */
import {
  type AdapterInfo,
  type AttentionVariant,
  type Dispatch,
  Gpu,
  type GpuError,
  type MatmulVariant,
  makeAttention,
  makeOps,
  matmulVariants,
  type Ops,
  onlyVariant,
  planMemory,
  rungOf,
  type Tape,
  type Tensor,
  unusable
} from "@srcode/gpu"
import { Effect, Result, type Scope } from "effect"
import { Report } from "../Report.ts"

/** What an operation leaves in a tensor. */
export interface Expected {
  readonly name: string
  readonly tensor: Tensor
  /** What the tensor holds before; a value that no result has, unless given. */
  readonly initial?: ArrayLike<number> | undefined
  /** The oracle's answer, or a judgement of what was read: the error in units of the tolerance. */
  readonly expected: ArrayLike<number> | ((actual: ArrayLike<number>) => number)
  /** Elements of `expected` stand at these places of the tensor; everywhere unless given. */
  readonly at?: ReadonlyArray<number>
  readonly tolerance?: number
}

export interface Prepared {
  readonly record: (tape: Tape, ops: Ops) => void
  readonly outputs: ReadonlyArray<Expected>
}

export interface CheckCase {
  readonly name: string
  readonly prepare: Effect.Effect<Prepared, GpuError, Gpu | Scope.Scope>
}

export interface Verdict {
  readonly case: string
  /** Capabilities under which these kernels are chosen, by name; the first that does. */
  readonly variant: string
  readonly kernels: ReadonlyArray<string>
  /** Rungs of the matmul ladder that took part, by name. */
  readonly rungs: ReadonlyArray<MatmulVariant>
  readonly ok: boolean
  /** Largest error over all outputs, in units of the tolerance. */
  readonly error: number
  readonly problem?: string
}

/** Sets of capabilities to choose under, by name. The device's own comes first. */
export const capabilitySets = (info: AdapterInfo): Readonly<Record<string, AdapterInfo>> => {
  const [low, high] = info.subgroupSize
  const lanes = low === high && (low === 4 || low === 8)
  return {
    device: info,
    hardware: { ...info, software: false },
    "hardware without subgroups": { ...info, software: false, subgroupSize: [0, 0] },
    "hardware, basic features": { ...info, software: false, subgroupSize: [0, 0], features: [] },
    "software without subgroups": { ...info, software: true, subgroupSize: [0, 0] },
    ...(lanes ? { "software with subgroups": { ...info, software: true } } : {})
  }
}

/** One way to choose kernels. */
export interface Way {
  readonly name: string
  readonly info: AdapterInfo
  readonly ops: Ops
  /** It names a variant, which not every shape can take: a refusal is no fault. */
  readonly optional?: boolean
}

/** Rungs that a driver on the processor compiles in reasonable time. */
const quick: ReadonlyArray<MatmulVariant> = ["subgroup", "tiled", "gemv"]

export const attentionNames: ReadonlyArray<AttentionVariant> = ["invocation", "packed", "workgroup", "flash", "matrix"]

/**
 * Every way: the sets of capabilities, then each rung of the matmul ladder that the device can run, then each variant of attention. `all` leaves out none;
 * otherwise those with large unrolled texts are left to devices that are not `software`.
 */
export const waysOf = (info: AdapterInfo, all: boolean): ReadonlyArray<Way> => {
  const rungs = matmulVariants.filter(
    (variant) => unusable(info, variant) === undefined && (all || quick.includes(variant))
  )
  return [
    ...Object.entries(capabilitySets(info)).map(([name, set]) => {
      // The rungs of products are ways of their own: elsewhere the simplest serves.
      const own = set === info ? info : { ...set, matmul: onlyVariant("tiled") }
      return { name, info: own, ops: makeOps(own) }
    }),
    ...rungs.map((variant) => {
      const own = { ...info, matmul: onlyVariant(variant) }
      return { name: `rung ${variant}`, info: own, ops: makeOps(own) }
    }),
    ...attentionNames.map((variant) => ({
      ...{ name: `attention ${variant}`, info, optional: true },
      ops: { ...makeOps(info), ...makeAttention(info, variant) }
    }))
  ]
}

/**
 * How much wider tolerances are where operands are rounded to 16-bit floats, of 11 bits: products, less so where two such stand for one
 * number, and attention, where scores pass through an exponential.
 */
const coarseOf = (dispatches: ReadonlyArray<Dispatch>): number =>
  dispatches.reduce((widest, { constants, kernel }) => {
    if (/^attention_.*_matrix$/.test(kernel)) return Math.max(widest, 80)
    const exact = /^matmul_((n[nt]_|tn_)?subgroup|tiled|register|gemv|pack|split)/.test(kernel)
    return kernel.startsWith("matmul_") && !exact ? Math.max(widest, 40 / (constants.PARTS ?? 1)) : widest
  }, 1)

/**
 * The rungs that dispatches belong to, by kernel and constants (of two that match, the one with more of them): a way of its name does not
 * run a rung where the shape is not for it.
 */
export const rungsOf = (dispatches: ReadonlyArray<Dispatch>): ReadonlyArray<MatmulVariant> => {
  const found = dispatches.flatMap(({ constants: own, kernel }) => {
    const fitting = matmulVariants.filter((variant) => {
      const { constants, family } = rungOf(variant)
      const named = new RegExp(`^matmul_(n[nt]_|tn_)?${family}(_|$)`).test(kernel)
      return named && Object.entries(constants).every(([name, value]) => own[name] === value)
    })
    const count = (variant: MatmulVariant): number => Object.keys(rungOf(variant).constants).length
    const most = Math.max(0, ...fitting.map(count))
    return fitting.filter((variant) => count(variant) === most)
  })
  return matmulVariants.filter((variant) => found.includes(variant))
}

const unwritten = 12345.678

/** The dispatches of a recording; on a device that only counts, so that nothing runs. */
export const recorded = Effect.fnUntraced(function* (record: Prepared["record"], ops: Ops) {
  let dispatches: ReadonlyArray<Dispatch> = []
  yield* planMemory(() =>
    Effect.flatMap(Gpu, (counting) =>
      counting.submit("recorded", (tape) => {
        record(tape, ops)
        dispatches = tape.entries.flatMap((entry) => (entry._tag === "Dispatch" ? [entry.dispatch] : []))
      })
    )
  )
  return {
    dispatches,
    kernels: [...new Set(dispatches.map((d) => d.kernel))],
    /** Tells one choice of kernels from another. */
    signature: dispatches.map((d) => `${d.kernel} ${JSON.stringify(d.constants)} ${d.grid.join("x")}`).join("; ")
  }
})

/** The largest error in units of the tolerance; infinite for what is no number. */
export const errorOf = (
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
  at?: ReadonlyArray<number>
): number => {
  let square = 0
  for (let i = 0; i < expected.length; i++) square += (expected[i] ?? 0) ** 2
  const rms = Math.sqrt(square / Math.max(1, expected.length))
  let worst = 0
  for (let i = 0; i < expected.length; i++) {
    const y = expected[i] ?? Number.NaN
    const error = Math.abs((actual[at?.[i] ?? i] ?? Number.NaN) - y) / (tolerance * (Math.abs(y) + rms) + 1e-30)
    if (!(error <= worst)) worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error
  }
  return worst
}

/** What a way leads to. */
export interface Choice extends Way {
  readonly dispatches: ReadonlyArray<Dispatch>
  readonly kernels: ReadonlyArray<string>
}

/** The ways that lead to different kernels for a recording, and why others cannot take it. */
export const choicesOf = Effect.fnUntraced(function* (record: Prepared["record"], ways: ReadonlyArray<Way>) {
  const choices = new Map<string, Choice>()
  const refused: Array<{ readonly way: Way; readonly problem: string }> = []
  for (const way of ways) {
    const dry = yield* Effect.result(recorded(record, way.ops))
    if (Result.isFailure(dry)) refused.push({ way, problem: dry.failure.message })
    else if (!choices.has(dry.success.signature)) choices.set(dry.success.signature, { ...way, ...dry.success })
  }
  return { choices: [...choices.values()], refused }
})

/** Pipelines that are made side by side, as drivers can: few enough that being stopped among them costs little. */
const sideBySide = 8

/** Uses the choices in turn; the pipelines of some are made at once before the first of them. */
export const eachChoice = Effect.fnUntraced(function* <E, R>(
  record: Prepared["record"],
  choices: ReadonlyArray<Choice>,
  use: (choice: Choice) => Effect.Effect<void, E, R>
) {
  const gpu = yield* Gpu
  const report = yield* Report
  for (let at = 0; at < choices.length; at += sideBySide) {
    const some = choices.slice(at, at + sideBySide)
    // What fails here fails again when it is used, where it can be told which one it is.
    if (some.length > 1 && !gpu.info.software) {
      yield* report.trying(`making ${some.map(({ name }) => name).join(", ")}`)
      yield* Effect.ignore(
        gpu.submit("compile", (tape) => {
          for (const { ops } of some) record(tape, ops)
        })
      )
    }
    for (const choice of some) {
      yield* report.trying(`${choice.name}: ${choice.kernels.join(", ")}`)
      yield* use(choice)
    }
  }
})

export const reset = Effect.fnUntraced(function* ({ initial, tensor }: Expected) {
  const gpu = yield* Gpu
  const value = (i: number): number => initial?.[i] ?? unwritten
  // Both kinds of element are four bytes; outputs that are read as words are judged as words.
  if (tensor.element === "f32")
    yield* gpu.write(
      { ...tensor, element: "f32" as const },
      Float32Array.from({ length: tensor.length }, (_, i) => value(i))
    )
  else
    yield* gpu.write(
      { ...tensor, element: "u32" as const },
      Uint32Array.from({ length: tensor.length }, (_, i) => value(i))
    )
})

/** One case in every way that leads to other kernels. Never fails: what goes wrong is a verdict. */
export const checkCase = Effect.fn("check.case")(function* (
  { name, prepare }: CheckCase,
  ways: ReadonlyArray<Way>,
  onVerdict: (verdict: Verdict) => Effect.Effect<void>
) {
  const gpu = yield* Gpu
  const failed = (
    variant: string,
    kernels: ReadonlyArray<string>,
    problem: string,
    rungs: ReadonlyArray<MatmulVariant> = []
  ): Verdict => ({
    case: name,
    variant,
    kernels,
    rungs,
    ok: false,
    error: Number.MAX_VALUE,
    problem
  })
  const own = Effect.gen(function* () {
    const { outputs, record } = yield* prepare
    const { choices, refused } = yield* choicesOf(record, ways)
    const said = new Set<string>()
    for (const { problem, way } of refused) {
      if (way.optional === true || said.has(problem)) continue
      said.add(problem)
      yield* onVerdict(failed(way.name, [], problem))
    }
    const use = Effect.fnUntraced(function* ({ dispatches, kernels, name: variant, ops }: Choice) {
      const coarse = coarseOf(dispatches)
      const verdict = yield* Effect.gen(function* () {
        for (const output of outputs) yield* reset(output)
        yield* gpu.submit(`check ${name}`, (tape) => record(tape, ops))
        let error = 0
        for (const { at, expected, tensor, tolerance = 1e-4 } of outputs) {
          const actual: ArrayLike<number> = yield* gpu.read(tensor)
          const own =
            typeof expected === "function" ? expected(actual) : errorOf(actual, expected, tolerance * coarse, at)
          error = Math.max(error, own)
        }
        const ok = error <= 1
        const rungs = rungsOf(dispatches)
        const verdict: Verdict = { case: name, variant, kernels, rungs, ok, error: Math.min(error, Number.MAX_VALUE) }
        return verdict
      }).pipe(Effect.catch((error) => Effect.succeed(failed(variant, kernels, error.message, rungsOf(dispatches)))))
      yield* onVerdict(verdict)
    })
    yield* eachChoice(record, choices, use)
  }).pipe(Effect.scoped)
  yield* own.pipe(Effect.catch((error) => onVerdict(failed("preparation", [], error.message))))
})

/** Seeded normal numbers (mulberry32, Box and Muller), rounded to what the device holds, and their upload. */
export const inputs = (seed: number) => {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())
  return {
    next,
    normal,
    floats: (length: number, scale = 1): Float32Array<ArrayBuffer> =>
      Float32Array.from({ length }, () => normal() * scale),
    integers: (length: number, below: number): ReadonlyArray<number> =>
      Array.from({ length }, () => Math.floor(next() * below))
  }
}

export const f32 = Effect.fnUntraced(function* (values: ArrayLike<number>) {
  const gpu = yield* Gpu
  const tensor = yield* gpu.alloc("check", "f32", values.length)
  yield* gpu.write(tensor, Float32Array.from(values))
  return tensor
})

export const u32 = Effect.fnUntraced(function* (values: ArrayLike<number>) {
  const gpu = yield* Gpu
  const tensor = yield* gpu.alloc("check", "u32", values.length)
  yield* gpu.write(tensor, Uint32Array.from(values))
  return tensor
})

/** An uninitialised result. */
export const result = Effect.fnUntraced(function* (length: number) {
  return yield* (yield* Gpu).alloc("check.out", "f32", length)
})
