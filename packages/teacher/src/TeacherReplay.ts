/**
 * Recorded answers: the same request gets the same answer, for tests, for paper runs, and for a run that must not pay
 * twice. One file per request, named by the SHA-256 of the canonical request: `<dir>/<2 hex>/<64 hex>.json`.
 *
 * Unusual: refusals (`NoRepair`, `NotParsed`) are answers and are recorded; faults (network, budget, bad shape) are
 * not. Files appear whole or not at all (temporary file, fsync, rename); of two writers the later one wins.
 */
import { Effect, FileSystem, Layer, Path, Predicate, Schema } from "effect"
import { requestKey } from "./internal/canonical.ts"
import { Teacher, type TeacherMethod, TeacherMethods, type TeacherShape } from "./Teacher.ts"
import {
  isRefusal,
  NoRepair,
  NotParsed,
  NotRecorded,
  Storage,
  type TeacherError,
  teacherError
} from "./TeacherError.ts"

const Head = Schema.Struct({ version: Schema.Literal(1), teacher: Schema.String })
const headFile = "recording.json"

/** One recording; `request` is kept for people and for checks, the key alone finds it. */
const record = <A extends Schema.Codec<unknown, unknown>>(answer: A) =>
  Schema.Struct({
    version: Schema.Literal(1),
    method: Schema.String,
    teacher: Schema.String,
    request: Schema.Json,
    outcome: Schema.Union([
      Schema.TaggedStruct("Answer", { answer }),
      Schema.TaggedStruct("Refusal", { reason: Schema.Union([NoRepair, NotParsed]) })
    ])
  })

const storage =
  (path: string) =>
  (cause: { readonly message: string; readonly reason?: unknown }): TeacherError => {
    const missing = Predicate.hasProperty(cause.reason, "_tag") && cause.reason._tag === "NotFound"
    const detail = missing
      ? "there is none; record answers there with a chat teacher first"
      : (cause.message.split("\n")[0] ?? "unknown")
    return teacherError(new Storage({ path, detail }))
  }

const place = (path: Path.Path, dir: string, key: string): string => path.join(dir, key.slice(0, 2), `${key}.json`)

/** The temporary file lives in a directory of its own beside the target, so a rename never crosses a file system. */
const writeAtomic = Effect.fnUntraced(
  function* (fs: FileSystem.FileSystem, path: Path.Path, target: string, text: string) {
    const parent = path.dirname(target)
    yield* fs.makeDirectory(parent, { recursive: true })
    const temporary = path.join(yield* fs.makeTempDirectoryScoped({ directory: parent, prefix: ".record-" }), "record")
    const write = Effect.gen(function* () {
      const file = yield* fs.open(temporary, { flag: "w" })
      yield* file.writeAll(new TextEncoder().encode(text))
      yield* file.sync
    })
    yield* Effect.scoped(write)
    yield* fs.rename(temporary, target)
  },
  (effect, _fs, _path, target) => Effect.mapError(Effect.scoped(effect), storage(target))
)

/** Builds the five methods from one function that is given the method's name and codecs. */
const methods = (
  name: string,
  ask: <M extends TeacherMethod>(
    method: M,
    request: (typeof TeacherMethods)[M]["request"]["Type"]
  ) => Effect.Effect<(typeof TeacherMethods)[M]["answer"]["Type"], TeacherError>
): TeacherShape => ({
  name,
  repair: (request) => ask("repair", request),
  reflect: (request) => ask("reflect", request),
  implicitPrompts: (request) => ask("implicitPrompts", request),
  secureSpans: (request) => ask("secureSpans", request),
  verdict: (request) => ask("verdict", request)
})

/** Answers from `dir` only. A request without a recording fails with `NotRecorded`; nothing is ever asked elsewhere. */
const layer = (dir: string): Layer.Layer<Teacher, TeacherError, FileSystem.FileSystem | Path.Path> =>
  Layer.effect(
    Teacher,
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const headPath = path.join(dir, headFile)
      const head = yield* fs
        .readFileString(headPath)
        .pipe(
          Effect.flatMap(Schema.decodeUnknownEffect(Schema.fromJsonString(Head))),
          Effect.mapError(storage(headPath))
        )
      return Teacher.of(
        methods(
          head.teacher,
          Effect.fn("TeacherReplay.ask")(function* (method, request) {
            const key = requestKey(method, request)
            const file = place(path, dir, key)
            const missing = teacherError(new NotRecorded({ method, key, path: file }))
            const present = yield* fs.exists(file).pipe(Effect.mapError(storage(file)))
            if (!present) return yield* missing
            const text = yield* fs.readFileString(file).pipe(Effect.mapError(storage(file)))
            return yield* replay(method, text, file)
          })
        )
      )
    })
  )

const replay = <M extends TeacherMethod>(
  method: M,
  text: string,
  file: string
): Effect.Effect<(typeof TeacherMethods)[M]["answer"]["Type"], TeacherError> => {
  const codec: Schema.Codec<(typeof TeacherMethods)[M]["answer"]["Type"], unknown> = TeacherMethods[method].answer
  return Schema.decodeUnknownEffect(Schema.fromJsonString(record(codec)))(text).pipe(
    Effect.mapError(storage(file)),
    Effect.flatMap(({ outcome }) =>
      outcome._tag === "Answer" ? Effect.succeed(outcome.answer) : Effect.fail(teacherError(outcome.reason))
    )
  )
}

/** Passes every request to the Teacher below and keeps its answer in `dir` (which is created). */
const recordLayer = (dir: string): Layer.Layer<Teacher, TeacherError, Teacher | FileSystem.FileSystem | Path.Path> =>
  Layer.effect(
    Teacher,
    Effect.gen(function* () {
      const inner = yield* Teacher
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const head = JSON.stringify({ version: 1, teacher: inner.name })
      yield* writeAtomic(fs, path, path.join(dir, headFile), `${head}\n`)

      const keep = Effect.fnUntraced(function* (method: TeacherMethod, request: unknown, outcome: unknown) {
        const key = requestKey(method, request)
        const body = { version: 1, method, teacher: inner.name, request, outcome }
        yield* writeAtomic(fs, path, place(path, dir, key), `${JSON.stringify(body, null, 1)}\n`)
      })
      const kept =
        <R, A>(method: TeacherMethod, ask: (request: R) => Effect.Effect<A, TeacherError>) =>
        (request: R): Effect.Effect<A, TeacherError> =>
          ask(request).pipe(
            Effect.tap((answer) => keep(method, request, { _tag: "Answer", answer })),
            Effect.tapError((error) =>
              isRefusal(error) ? keep(method, request, { _tag: "Refusal", reason: error.reason }) : Effect.void
            )
          )
      return Teacher.of({
        name: inner.name,
        repair: kept("repair", inner.repair),
        reflect: kept("reflect", inner.reflect),
        implicitPrompts: kept("implicitPrompts", inner.implicitPrompts),
        secureSpans: kept("secureSpans", inner.secureSpans),
        verdict: kept("verdict", inner.verdict)
      })
    })
  )

export const TeacherReplay = { layer, record: recordLayer } as const
