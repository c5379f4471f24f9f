/**
 * What a section has found so far, in a file that is whole at any moment: a section that is killed loses only what it was
 * doing. Sections write in the order of importance.
 */
import type { DeviceChoice } from "@srcode/gpu"
import { Clock, Context, Effect, FileSystem } from "effect"

export type Size = "full" | "tiny"

export class Report extends Context.Service<
  Report,
  {
    readonly size: Size
    readonly device: DeviceChoice
    /** Folder for files beside the report: traces. */
    readonly folder: string
    /** Seconds until the section is stopped. */
    readonly left: Effect.Effect<number>
    /** Sets a finding and writes the file. */
    readonly set: (name: string, value: unknown) => Effect.Effect<void>
    /** Adds to a list of findings and writes the file. */
    readonly add: (name: string, value: unknown) => Effect.Effect<void>
    /** Adds several and sets others with one writing: files of thousands of findings take time to write. */
    readonly merge: (
      added: Readonly<Record<string, ReadonlyArray<unknown>>>,
      values: Readonly<Record<string, unknown>>
    ) => Effect.Effect<void>
    /** What is about to be tried, for the case that the process ends with it. */
    readonly trying: (what: string) => Effect.Effect<void>
  }
>()("@srcode/bench/Report") {}

/** JSON has no infinities; they become null. */
export const writeAtomic = Effect.fnUntraced(function* (file: string, value: unknown) {
  const fs = yield* FileSystem.FileSystem
  yield* fs.writeFileString(`${file}.tmp`, `${JSON.stringify(value, null, 1)}\n`)
  yield* fs.rename(`${file}.tmp`, file)
})

export interface ReportOptions {
  readonly file: string
  readonly folder: string
  readonly size: Size
  readonly device: DeviceChoice
  /** Seconds that the section may take. */
  readonly seconds: number
}

export const makeReport = Effect.fnUntraced(function* ({ device, file, folder, seconds, size }: ReportOptions) {
  const fs = yield* FileSystem.FileSystem
  const end = (yield* Clock.currentTimeMillis) + 1000 * seconds
  const found: Record<string, unknown> = {}
  const lists = new Map<string, Array<unknown>>()
  const save = writeAtomic(file, found).pipe(Effect.provideService(FileSystem.FileSystem, fs), Effect.orDie)
  yield* save
  const listOf = (name: string): Array<unknown> => {
    const list = lists.get(name) ?? []
    lists.set(name, list)
    found[name] = list
    return list
  }
  const merge: (typeof Report)["Service"]["merge"] = (added, values) =>
    Effect.suspend(() => {
      for (const [name, more] of Object.entries(added)) listOf(name).push(...more)
      Object.assign(found, values)
      return save
    })
  return Report.of({
    size,
    device,
    folder,
    left: Effect.map(Clock.currentTimeMillis, (now) => Math.max(0, (end - now) / 1000)),
    set: (name, value) => merge({}, { [name]: value }),
    add: (name, value) => merge({ [name]: [value] }, {}),
    merge,
    trying: (what) => Effect.ignore(fs.writeFileString(tryingFile(file), what))
  })
})

/** Beside a section's findings: what it tried last. */
export const tryingFile = (file: string): string => `${file}.trying`

/** Runs a part of a section; what goes wrong in it is a finding, and the next part goes on. */
export const guarded = <A, E, R>(name: string, work: Effect.Effect<A, E, R>): Effect.Effect<void, never, R | Report> =>
  work.pipe(
    Effect.asVoid,
    Effect.catchCause((cause) =>
      Effect.flatMap(Report, (report) => report.add("problems", { part: name, problem: String(cause).slice(0, 2000) }))
    )
  )
