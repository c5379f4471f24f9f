/** `srcode pull`: a model from the Hugging Face hub into the local cache, where `--model ORG/NAME` finds it. */
import { UserError } from "@srcode/domain"
import { parseHubId } from "@srcode/model"
import { Console, Effect, Option } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { pull as pullModel } from "../hub/pull.ts"
import { makeProgress } from "../progress.ts"

const megabytes = (bytes: number): number => Math.round(bytes / 1e5) / 10

export const pull = Command.make(
  "pull",
  {
    repository: Argument.String("repository").pipe(
      Argument.withDescription("ORG/NAME of a model or an adapter, as in the address of its page")
    ),
    revision: Flag.String("revision").pipe(
      Flag.withDescription("A branch, tag or commit (default: main)"),
      Flag.optional
    ),
    include: Flag.String("include").pipe(
      Flag.withDescription('Fetch only files that match, such as "*.json"; may be given several times'),
      Flag.withMetavar("GLOB"),
      Flag.between(0, 100)
    )
  },
  Effect.fnUntraced(function* ({ include, repository, revision }) {
    const text = Option.isSome(revision) ? `${repository}@${revision.value}` : repository
    const id = parseHubId(text)
    if (id === undefined) {
      return yield* new UserError({
        message: `${JSON.stringify(text)} names no repository on the hub; give ORG/NAME, and a branch, tag or commit with --revision`
      })
    }
    const pulled = yield* Effect.scoped(
      Effect.gen(function* () {
        const progress = yield* makeProgress
        return yield* pullModel(id, include, ({ doneBytes, totalBytes, file }) =>
          progress.report({
            stage: "pull",
            step: megabytes(doneBytes),
            total: megabytes(totalBytes),
            unit: "MB",
            note: file
          })
        )
      })
    )
    const fetched = pulled.fetchedBytes === 0 ? "nothing to fetch" : `${megabytes(pulled.fetchedBytes)} MB fetched`
    yield* Console.log(`${pulled.files} files, ${megabytes(pulled.bytes)} MB, ${fetched}: ${pulled.directory}`)
  })
).pipe(
  Command.withDescription("Fetch a model from the Hugging Face hub into the local cache"),
  Command.withExamples([
    {
      command: "npm run srcode -- pull Qwen/Qwen2.5-Coder-0.5B-Instruct",
      description: "Then give --model Qwen/Qwen2.5-Coder-0.5B-Instruct to other commands"
    },
    {
      command: 'npm run srcode -- pull Qwen/Qwen3-8B --revision main --include "*.json"',
      description: "Only the settings and the tokenizer"
    }
  ])
)
