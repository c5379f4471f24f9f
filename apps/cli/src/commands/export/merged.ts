/** `srcode export merged`: base and adapters as one model. No device is used. */
import { exportMerged, locateAdapter, locateModel } from "@srcode/model"
import { Console, Effect, Option } from "effect"
import { Command, Flag } from "effect/cli"
import { makeProgress } from "../../progress.ts"
import { fileFlag } from "../../root.ts"
import { dtypeFlag, outFlag, overwriteFlag, shardSizeFlag, storedDtype } from "./shared.ts"

export const merged = Command.make(
  "merged",
  {
    model: fileFlag("model", "Base model folder, or ORG/NAME[@REVISION] in the local cache (required)", "MODEL"),
    adapter: fileFlag("adapter", "PEFT adapter folder to merge; may be given several times (required)", "DIR").pipe(
      Flag.atLeast(1)
    ),
    out: outFlag,
    dtype: dtypeFlag,
    shardSize: shardSizeFlag,
    overwrite: overwriteFlag
  },
  Effect.fnUntraced(function* (flags) {
    const progress = yield* makeProgress
    const adapters = yield* Effect.forEach(flags.adapter, locateAdapter)
    const result = yield* exportMerged({
      model: yield* locateModel(flags.model),
      adapters,
      out: flags.out,
      dtype: storedDtype[flags.dtype],
      overwrite: flags.overwrite,
      ...(Option.isSome(flags.shardSize) ? { shardBytes: flags.shardSize.value } : {}),
      onProgress: (done, total) => {
        const [size, unit] = total >= 1e7 ? [1e6, "MB"] : [1, "bytes"]
        return progress.report({
          stage: "export",
          step: Math.floor(done / size),
          total: Math.floor(total / size),
          unit
        })
      }
    })
    const files = result.files.length === 1 ? "1 file" : `${result.files.length} files`
    yield* Console.log(
      `${flags.out}: ${result.totalBytes} bytes of weights in ${files}, ${result.merged} of ${result.tensors} tensors changed`
    )
  }, Effect.scoped)
).pipe(
  Command.withDescription(
    "Merge adapters into their base model: W + scale · B A, rounded once; names, files, settings and tokenizer of the base"
  ),
  Command.withExamples([
    {
      command: "npm run srcode -- export merged --model DIR --adapter runs/demo/adapter --out merged",
      description: "Stored like the base"
    },
    {
      command:
        "npm run srcode -- export merged --model DIR --adapter A --adapter B --out merged --dtype bf16 --shard-size 2GB",
      description: "Two adapters, other files"
    }
  ])
)
