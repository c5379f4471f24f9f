/**
 * The shape of a training pass: how much it keeps for backward, and how many tokens it takes. Chosen by planning: the
 * trainer's own allocations run against a device that only counts, and the first shape that fits is taken.
 *
 * The choice never changes what is computed: modes give the same bits, and a smaller pass another order of the same sum
 * over micro-batches.
 */
import { type Gpu, type GpuError, planFirst, requireMemory, type Section } from "@srcode/gpu"
import type { Checkpointing } from "@srcode/model"
import { Effect, Schema, type Scope } from "effect"

/** `auto`: as little as the memory demands. */
export const CheckpointingChoice = Schema.Literals(["auto", "none", "selective", "layer"])
export type CheckpointingChoice = typeof CheckpointingChoice.Type

export interface PassShape {
  readonly checkpointing: Checkpointing
  /** Tokens of a pass. */
  readonly capacity: number
}

export type PassShapes = readonly [PassShape, ...ReadonlyArray<PassShape>]

const modes: Readonly<Record<CheckpointingChoice, readonly [Checkpointing, ...ReadonlyArray<Checkpointing>]>> = {
  auto: ["none", "selective", "layer"],
  none: ["none"],
  selective: ["selective"],
  layer: ["layer"]
}

/**
 * The shapes to try, in order: modes that keep less and less, then the same with passes of half the tokens, down to the
 * longest sequence.
 */
export const passShapes = (choice: CheckpointingChoice, capacity: number, longest: number): PassShapes => {
  const [first, ...others] = modes[choice]
  const shapes: Array<PassShape> = others.map((checkpointing) => ({ checkpointing, capacity }))
  for (let tokens = capacity; tokens > longest; ) {
    tokens = Math.max(longest, Math.ceil(tokens / 2))
    for (const checkpointing of modes[choice]) shapes.push({ checkpointing, capacity: tokens })
  }
  return [{ checkpointing: first, capacity }, ...shapes]
}

/** The first shape that fits the device as it is now; fails with the missing bytes where none does. */
export const choosePass = Effect.fnUntraced(function* <A, E, R>(
  stage: string,
  shapes: PassShapes,
  allocate: (shape: PassShape, section: Section) => Effect.Effect<A, E | GpuError, R | Gpu | Scope.Scope>
) {
  const { candidate, plan } = yield* planFirst(shapes, allocate)
  yield* requireMemory(`${stage} with passes of ${candidate.capacity} tokens`, plan)
  return candidate
})

/** For people. */
export const describePass = ({ checkpointing, capacity }: PassShape): string =>
  `checkpointing ${checkpointing}, passes of ${capacity} tokens`

/** Names nothing: for allocations outside of a plan. */
export const unnamed: Section = (_, allocate) => allocate
