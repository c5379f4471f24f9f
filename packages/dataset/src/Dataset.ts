/**
 * Where training data comes from, as a service: PrimeVul files and the embedded corpus. Programs ask it; tests and other
 * corpora swap the layer.
 *
 * Contract: everything is a function of its arguments (seeds included), so a stage that is run again reads the same rows.
 */
import { Context, Effect, type FileSystem, Layer, type Stream } from "effect"
import { pretrainDocuments, rlPrompts, type SftRow, sftRows } from "./corpus/Corpus.ts"
import type { CorpusError } from "./corpus/CorpusError.ts"
import { type EvalPrompt, loadEvalPrompts } from "./corpus/EvalPrompts.ts"
import type { TinyProblem } from "./corpus/TinyProblem.ts"
import type { DatasetError } from "./DatasetError.ts"
import { readPrimeVul, type Selection } from "./PrimeVul.ts"

export interface Draw {
  readonly seed: number
  readonly count: number
}

export class Dataset extends Context.Service<
  Dataset,
  {
    /** Vulnerable functions of a PrimeVul file, kept or dropped with the reason; fails at a malformed row with its line. */
    functions(file: string): Stream.Stream<Selection, DatasetError>
    /** Detection and repair rows for supervised tuning. */
    supervised(draw: Draw): Effect.Effect<ReadonlyArray<SftRow>>
    /** Distinct problems for reinforcement and preference pairs; fewer than `count` when the corpus runs dry. */
    problems(draw: Draw): Effect.Effect<ReadonlyArray<TinyProblem>>
    /** Texts for a base model, without end tokens. */
    documents(draw: Draw): Effect.Effect<ReadonlyArray<string>>
    /** The fixed evaluation prompts, which none of the above holds. */
    readonly benchmark: Effect.Effect<ReadonlyArray<EvalPrompt>, CorpusError, FileSystem.FileSystem>
  }
>()("@srcode/dataset/Dataset") {
  /** PrimeVul as published, and the embedded corpus. */
  static readonly layer = Layer.succeed(
    Dataset,
    Dataset.of({
      functions: (file) => readPrimeVul(file),
      supervised: (draw) => Effect.sync(() => sftRows(draw)),
      problems: (draw) => Effect.sync(() => rlPrompts(draw)),
      documents: (draw) => Effect.sync(() => pretrainDocuments(draw)),
      benchmark: loadEvalPrompts()
    })
  )

  /** A data set of the given methods only; calling another one is a defect that names it. */
  static readonly layerTest = (partial: Partial<Dataset["Service"]>): Layer.Layer<Dataset> =>
    Layer.mock(Dataset, partial)
}
