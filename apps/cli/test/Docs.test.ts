/** The pages in docs/ against the command definitions: a page a command, its synopsis with exactly the command's flags. */
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Option } from "effect"
import { CliOutput, Command, type HelpDoc } from "effect/cli"
import { command } from "../src/cli.ts"

const root = nodePath.resolve(import.meta.dirname, "../../..")

/** The help of a command as data. */
const helpOf = (path: ReadonlyArray<string>): Promise<HelpDoc.HelpDoc> => {
  let doc: HelpDoc.HelpDoc | undefined
  const presenter = CliOutput.Presenter.of({
    present: (event) => Effect.sync(() => void (doc = event._tag === "Help" ? event.helpDoc : doc))
  })
  return Effect.runPromise(
    Command.runWith(command, { version: "0", renderErrors: false })([...path, "--help"]).pipe(
      Effect.provideService(CliOutput.Presenter, presenter),
      Effect.provide(NodeServices.layer)
    )
  ).then(() => {
    assert.isDefined(doc, path.join(" "))
    return doc as HelpDoc.HelpDoc
  })
}

interface Leaf {
  /** Such as "train sft". */
  readonly name: string
  readonly doc: HelpDoc.HelpDoc
  readonly flags: ReadonlySet<string>
}

const leaves: Array<Leaf> = []

beforeAll(async () => {
  const visit = async (path: ReadonlyArray<string>): Promise<void> => {
    const doc = await helpOf(path)
    const below = (doc.subcommands ?? []).flatMap((group) => group.commands.map(({ name }) => name))
    for (const name of below) await visit([...path, name])
    if (below.length === 0)
      leaves.push({ name: path.join(" "), doc, flags: new Set(doc.flags.map(({ name }) => `--${name}`)) })
  }
  await visit([])
  assert.isAbove(leaves.length, 12)
})

const call = "npm run srcode -- "
const flagsIn = (text: string) => [...text.matchAll(/(?<![\w-])--[a-z][a-z-]*/g)].map(([flag]) => flag)

/** Calls of srcode in a text, each with its continuation lines (to a blank line, a fence or the next call). */
const callsIn = (text: string): ReadonlyArray<string> =>
  text
    .split(call)
    .slice(1)
    .map((rest) => rest.split(/\n\s*\n|```|`|\n(?=\S)|#/)[0] ?? "")

const leafOf = (text: string): Leaf | undefined => leaves.find(({ name }) => `${text} `.startsWith(`${name} `))

describe("docs", () => {
  it("each command has a page, whose synopsis has its flags and choices, no more and no fewer", () => {
    let compared = 0
    for (const { doc, flags, name } of leaves) {
      const page = fs.readFileSync(`${root}/docs/${name.split(" ")[0]}.md`, "utf8")
      const synopsis = callsIn(page).find((text) => `${text.replace(/\n/g, " ")} `.startsWith(`${name} `)) ?? ""
      const told = new Set(flagsIn(synopsis))
      told.delete("--device")
      assert.deepStrictEqual([...told].sort(), [...flags].sort(), `docs/${name.split(" ")[0]}.md, ${name}`)
      for (const flag of doc.flags) {
        const choices = /\(choices: (.*)\)/.exec(Option.getOrElse(flag.description, () => ""))?.[1]?.split(", ")
        const listed = new RegExp(`--${flag.name} ([\\w.-]+(?:\\|[\\w.-]+)+)`).exec(synopsis)?.[1]?.split("|")
        if (choices === undefined || listed === undefined) continue
        assert.deepStrictEqual(listed, choices, `${name} --${flag.name}`)
        compared++
      }
    }
    assert.isAbove(compared, 10)
  })

  it("every call in README, docs and help names a command and its flags", () => {
    const pages = ["README.md", "bench/README.md", ...fs.readdirSync(`${root}/docs`).map((name) => `docs/${name}`)]
    const texts = pages.map((page) => [page, fs.readFileSync(`${root}/${page}`, "utf8")] as const)
    const examples = leaves.map(
      ({ name, doc }) => [name, (doc.examples ?? []).map((e) => `${e.command}\n\n`).join("")] as const
    )
    let seen = 0
    for (const [place, text] of [...texts, ...examples]) {
      for (const one of callsIn(text)) {
        if (/^(<command>|--|\.\.\.|$)/.test(one.trim())) continue
        const leaf = leafOf(one)
        assert.isDefined(leaf, `${place}: ${one}`)
        for (const flag of flagsIn(one)) {
          if (flag === "--device" || flag === "--help") continue
          assert.isTrue(leaf?.flags.has(flag), `${place}: ${leaf?.name} has no ${flag}`)
        }
        seen++
      }
    }
    assert.isAbove(seen, 40)
  })

  it("each command has an example of itself, and each flag says what it does", () => {
    for (const { doc, name } of leaves) {
      assert.include((doc.examples ?? []).map((example) => example.command).join("\n"), `${call}${name}`)
      for (const flag of doc.flags) {
        const words = Option.getOrElse(flag.description, () => "")
        assert.isAbove(words.replace(/\(choices: .*\)/, "").trim().length, 5, `${name} --${flag.name}`)
      }
    }
  })
})
