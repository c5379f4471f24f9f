/**
 * What a program will allocate, before anything is: the program's own allocation code runs against a device that only
 * counts. So a plan is exact by construction, and an allocation that one buffer or binding cannot hold fails here.
 *
 * Kernels take temporary buffers when they are recorded. Whoever allocates for some work therefore rehearses the largest of it: in a plan it
 * is recorded, on a device it is not.
 */
import { Context, Effect, type Scope } from "effect"
import { Gpu } from "./Gpu.ts"
import { GpuError, gpuError, OutOfMemory } from "./GpuError.ts"
import { makeCounter } from "./internal/counter.ts"

export interface MemorySection {
  readonly name: string
  /** Device bytes that live at the end of the section. */
  readonly bytes: number
}

export interface MemoryPlan {
  readonly sections: ReadonlyArray<MemorySection>
  readonly total: number
  /** Bytes in use already, and how many may be in use at all; infinite where the device does not say. */
  readonly live: number
  readonly budget: number
}

/** Names a stretch of allocations inside a plan; returns what the stretch returns. */
export type Section = <A, E, R>(name: string, allocate: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

const Rehearsing = Context.Reference<boolean>("@srcode/gpu/Rehearsing", { defaultValue: () => false })

/** Runs `work` where a plan is made, so that the temporary buffers of its kernels are counted; elsewhere does nothing. */
export const rehearse = <E, R>(work: Effect.Effect<unknown, E, R>): Effect.Effect<void, E, R> =>
  Effect.flatMap(Rehearsing, (on) => (on ? Effect.asVoid(work) : Effect.void))

/** What `allocate` gives, uncounted and without memory behind it: stands in for what others will bring to a rehearsal. */
export const imagined = <A, E, R>(allocate: Effect.Effect<A, E, R>): Effect.Effect<A, E, Exclude<R, Gpu> | Gpu> =>
  Effect.flatMap(Gpu, (gpu) => Effect.provideService(allocate, Gpu, makeCounter(gpu.info).gpu))

/**
 * Runs `allocate` without a device. Whatever it returns must not be computed with: reads give zeros. Sections are listed
 * in the order in which they end.
 */
export const planMemory = Effect.fnUntraced(function* <A, E, R>(
  allocate: (section: Section) => Effect.Effect<A, E, R | Gpu | Scope.Scope>
) {
  const gpu = yield* Gpu
  const counter = makeCounter(gpu.info)
  const sections: Array<MemorySection> = []
  const section: Section = (name, own) =>
    Effect.suspend(() => {
      const held = () => counter.live() - counter.temporary()
      const before = held()
      return Effect.tap(own, () => Effect.sync(() => sections.push({ name, bytes: held() - before })))
    })
  yield* allocate(section).pipe(
    Effect.scoped,
    Effect.provideService(Gpu, counter.gpu),
    Effect.provideService(Rehearsing, true)
  )
  // One for each slot, whatever takes it: they belong to no section.
  if (counter.temporary() > 0) sections.push({ name: "temporary", bytes: counter.temporary() })
  const { live, budget } = yield* gpu.memory
  const plan: MemoryPlan = { sections, total: counter.peak(), live, budget }
  return plan
})

/** Whether the plan fits beside what is in use. */
export const planFits = (plan: MemoryPlan): boolean => plan.live + plan.total <= plan.budget

/**
 * Plans the candidates in order and takes the first that fits: into the budget, and each buffer into a binding. Where none
 * does, the last one and its plan, or its failure.
 */
export const planFirst = Effect.fnUntraced(function* <C, A, E, R>(
  candidates: readonly [C, ...ReadonlyArray<C>],
  allocate: (candidate: C, section: Section) => Effect.Effect<A, E | GpuError, R | Gpu | Scope.Scope>
) {
  const [first, ...others] = candidates
  let candidate = first
  for (const next of others) {
    const plan = yield* planMemory((section) => allocate(candidate, section)).pipe(
      Effect.catchIf(isOutOfMemory, () => Effect.succeed(null))
    )
    if (plan !== null && planFits(plan)) return { candidate, plan }
    candidate = next
  }
  return { candidate, plan: yield* planMemory((section) => allocate(candidate, section)) }
})

const isOutOfMemory = (error: unknown): error is GpuError =>
  error instanceof GpuError && error.reason._tag === "OutOfMemory"

/** Fails with the missing bytes when the plan does not fit beside what is in use. */
export const requireMemory = (label: string, plan: MemoryPlan): Effect.Effect<void, GpuError> =>
  planFits(plan)
    ? Effect.void
    : Effect.fail(
        gpuError(
          new OutOfMemory({
            label,
            bytes: plan.total,
            live: plan.live,
            limit: plan.budget,
            limitName: "the memory budget"
          })
        )
      )

/** Bytes for people: powers of 1000, three digits. */
export const formatBytes = (bytes: number): string => {
  const units = ["B", "kB", "MB", "GB", "TB"]
  let value = bytes
  let unit = 0
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${unit === 0 ? value : Number(value.toPrecision(3))} ${units[unit]}`
}

/** The plan in one line. */
export const describePlan = (plan: MemoryPlan): string => {
  const parts = plan.sections.map(({ name, bytes }) => `${name} ${formatBytes(bytes)}`).join(", ")
  const room = Number.isFinite(plan.budget) ? ` of ${formatBytes(plan.budget)}` : ""
  return `${parts}; ${formatBytes(plan.live + plan.total)}${room}`
}
