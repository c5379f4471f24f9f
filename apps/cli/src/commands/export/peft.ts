/** `srcode export peft`: an adapter in the form that PEFT and vLLM load. */
import { exportPeft, locateAdapter, locateModel } from "@srcode/model"
import { Console, Effect, Option } from "effect"
import { Command, Flag } from "effect/cli"
import { fileFlag } from "../../root.ts"
import { dtypeFlag, outFlag, overwriteFlag, storedDtype } from "./shared.ts"

export const peft = Command.make(
  "peft",
  {
    model: fileFlag("model", "Base model folder; layers and shapes are checked against it (required)", "MODEL"),
    adapter: fileFlag("adapter", "PEFT adapter folder (required)", "DIR"),
    out: outFlag,
    dtype: dtypeFlag,
    baseName: Flag.String("base-name").pipe(
      Flag.withDescription("Name of the base to write, such as ORG/NAME (default: the adapter's, else --model)"),
      Flag.withMetavar("NAME"),
      Flag.optional
    ),
    plainAlpha: Flag.Boolean("plain-alpha").pipe(
      Flag.withDescription("Write rank-stabilised scaling as a plain lora_alpha, for llama.cpp"),
      Flag.withDefault(false)
    ),
    overwrite: overwriteFlag
  },
  Effect.fnUntraced(function* (flags) {
    const result = yield* exportPeft({
      model: yield* locateModel(flags.model),
      adapter: yield* locateAdapter(flags.adapter),
      out: flags.out,
      dtype: storedDtype[flags.dtype],
      plainAlpha: flags.plainAlpha,
      overwrite: flags.overwrite,
      ...(Option.isSome(flags.baseName) ? { baseName: flags.baseName.value } : {})
    })
    yield* Console.log(`${flags.out}: ${result.tensors} tensors, ${result.totalBytes} bytes`)
  })
).pipe(
  Command.withDescription("Write an adapter as PEFT does: modules listed, plain names, nothing else in the folder"),
  Command.withExamples([
    {
      command:
        "npm run srcode -- export peft --model DIR --adapter runs/demo/adapter --out adapter --base-name ORG/NAME",
      description: "For vLLM and the hub"
    }
  ])
)
