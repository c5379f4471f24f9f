/** Saves state after state into the folder given, as fast as it can, until it is killed. Prints each number written. */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Effect } from "effect"
import { saveState } from "../../src/Checkpoint.ts"

const directory = process.argv[2] ?? ""

const program = Effect.gen(function* () {
  for (let step = 1; ; step++) {
    yield* saveState(directory, { tensors: { m: new Float32Array(50_000).fill(step) }, json: { step } })
    process.stdout.write(`${step}\n`)
  }
})

NodeRuntime.runMain(program.pipe(Effect.provide(NodeServices.layer)))
