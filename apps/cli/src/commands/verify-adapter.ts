/** `srcode verify-adapter`: what other programs would refuse or pass over in an adapter folder. */
import { UserError } from "@srcode/domain"
import { type AdapterReport, type Finding, isRefused, locateAdapter, locateModel, verifyAdapter } from "@srcode/model"
import { Console, Effect, Option } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { oneLine } from "../errors.ts"
import { modelFlag } from "../model.ts"

const summary = (report: AdapterReport): string => {
  const of = (value: number | string | null) => value ?? "unknown"
  const scale = report.scale === null ? "unknown" : String(Number(report.scale.toPrecision(6)))
  return (
    `${report.directory}: rank ${of(report.rank)}, alpha ${of(report.alpha)}, scale ${scale}, ` +
    `${report.tensors} tensors, ${report.parameters} parameters, ${report.dtypes.join(" and ") || "no dtype"}, ` +
    `base ${of(report.baseModel)}`
  )
}

const line = ({ consumers, message, severity }: Finding): string =>
  `${severity}: ${consumers.length === 0 ? "" : `${consumers.join(", ")}: `}${message}`

const counted = (n: number, what: string) => `${n} ${what}${n === 1 ? "" : "s"}`

export const verifyAdapterCommand = Command.make(
  "verify-adapter",
  {
    adapter: Argument.String("adapter").pipe(
      Argument.withDescription("PEFT adapter folder, or ORG/NAME[@REVISION] in the local cache")
    ),
    model: modelFlag.pipe(
      Flag.withDescription("Base model to check layers and shapes against: a folder, or ORG/NAME[@REVISION]"),
      Flag.optional
    ),
    json: Flag.Boolean("json").pipe(
      Flag.withDescription("Print one JSON object instead of lines"),
      Flag.withDefault(false)
    )
  },
  Effect.fnUntraced(function* (flags) {
    const directory = yield* locateAdapter(flags.adapter)
    const base = Option.isSome(flags.model)
      ? { model: yield* locateModel(flags.model.value), modelName: flags.model.value }
      : {}
    const report = yield* verifyAdapter(directory, base)
    const refused = isRefused(report)
    if (flags.json) yield* Console.log(JSON.stringify({ refused, ...report }, null, 2))
    else for (const text of [summary(report), ...report.findings.map(line)]) yield* Console.log(oneLine(text))
    const count = (severity: Finding["severity"]) => report.findings.filter((f) => f.severity === severity).length
    if (refused) {
      return yield* new UserError({
        message: `${directory}: ${counted(count("error"), "error")} and ${counted(count("warning"), "warning")}: it would be refused, or serve another model than the one trained`
      })
    }
    if (!flags.json) yield* Console.log(`no errors, ${counted(count("warning"), "warning")}`)
  })
).pipe(
  Command.withDescription("Tell what PEFT, vLLM and llama.cpp would refuse or silently pass over in an adapter"),
  Command.withExamples([
    {
      command: "npm run srcode -- verify-adapter runs/demo/adapter --model DIR",
      description: "Against its base model"
    },
    { command: "npm run srcode -- verify-adapter DIR --json", description: "For a script; exit code 1 on errors" }
  ])
)
