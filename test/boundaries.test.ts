/**
 * The doors of the house: which package may import which. Reads the imports of every source file and fails on a closed
 * door, a cycle, an import that package.json does not declare, a reach into another package's inside, and on a file
 * that has grown over 400 lines (generated manifests excepted).
 */
import * as fs from "node:fs"
import { builtinModules } from "node:module"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"

const root = nodePath.resolve(import.meta.dirname, "..")

/** Which of our packages each may import. Everyone may use `domain`; `pipeline` and above may use all below them. */
const below = ["domain", "gpu", "model", "trainer", "sandbox", "codeql", "teacher", "dataset", "evals", "store"]
const doors: Readonly<Record<string, ReadonlyArray<string>>> = {
  domain: [],
  kernels: [],
  gpu: ["domain", "kernels"],
  model: ["domain", "gpu", "kernels"],
  trainer: ["domain", "gpu", "model", "kernels"],
  sandbox: ["domain"],
  codeql: ["domain", "sandbox"],
  teacher: ["domain"],
  dataset: ["domain", "sandbox"],
  evals: ["domain"],
  store: ["domain"],
  serve: ["domain", "gpu", "model"],
  pipeline: below,
  cli: [...below, "pipeline", "serve", "bench"],
  bench: [...below, "pipeline", "kernels"],
  test: [...below, "pipeline", "kernels", "cli"]
}
/** `kernels` holds text files and their references in double precision: outside of `gpu` only tests read those. */
const testOnly = new Set(["kernels"])
/** Third-party modules are the root's to declare; `domain` must get by with `effect`. */
const thirdPartyOf: Readonly<Record<string, ReadonlyArray<string>>> = { domain: ["effect"] }

interface Source {
  /** Path from the root of the repository. */
  readonly path: string
  readonly text: string
}
interface Package {
  readonly name: string
  readonly folder: string
  readonly declared: ReadonlySet<string>
  readonly exports: Readonly<Record<string, unknown>>
  readonly sources: ReadonlyArray<Source>
}

const literalOrComment =
  /("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|\x60(?:[^\x60\\]|\\.)*\x60|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g
const beforeSpecifier = /\b(?:from|import|import\()\s*$/
const pattern = /\b(?:from|import|import\()\s*["']([^"'\n]+)["']/g

/** Module names that a text imports. Comments and all other literals are blanked first: they may quote code. */
const importsOf = (text: string): ReadonlyArray<string> => {
  const code = text.replace(literalOrComment, (literal, quoted: string | undefined, at: number) =>
    quoted !== undefined && beforeSpecifier.test(text.slice(Math.max(0, at - 40), at)) ? literal : '""'
  )
  return [...code.matchAll(pattern)].map((match) => match[1] ?? "")
}

const packageName = (specifier: string) =>
  specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/")

const matchesExport = (exports: Package["exports"], subpath: string): boolean =>
  Object.entries(exports).some(([key, target]) => {
    if (target === null) return false
    const [before = "", after] = key.split("*")
    return after === undefined ? key === subpath : subpath.startsWith(before) && subpath.endsWith(after)
  }) &&
  !Object.entries(exports).some(([key, target]) => target === null && subpath.startsWith(key.split("*")[0] ?? key))

const isTestCode = (path: string) => /(^|\/)(test|bench|scripts)\//.test(path) || path.endsWith(".test.ts")

/** Everything wrong with one import, as messages that name the file. */
const checkImport = (
  owner: Package,
  path: string,
  specifier: string,
  packages: ReadonlyMap<string, Package>,
  rootDeclared: ReadonlySet<string>
): ReadonlyArray<string> => {
  const says = (text: string) => [`${path}: ${text}`]
  if (specifier.startsWith("node:")) return []
  if (specifier.startsWith(".")) {
    const target = nodePath.posix.join(nodePath.posix.dirname(path), specifier)
    return target.startsWith(`${owner.folder}/`) ? [] : says(`"${specifier}" leaves the package; import it by name`)
  }
  const name = packageName(specifier)
  if (!name.startsWith("@srcode/")) {
    if (builtinModules.includes(name)) return says(`"${specifier}" is a Node module: write "node:${specifier}"`)
    const allowed = thirdPartyOf[owner.name]
    if (allowed !== undefined && !isTestCode(path) && !allowed.includes(name)) {
      return says(`${owner.name} may not use "${name}"`)
    }
    return rootDeclared.has(name) ? [] : says(`"${name}" is not declared in the root package.json`)
  }
  const short = name.slice("@srcode/".length)
  const target = packages.get(short)
  if (target === undefined) return says(`there is no package "${name}"`)
  if (short === owner.name) return says(`a package does not import itself by name ("${specifier}")`)
  const problems: Array<string> = []
  if (!(doors[owner.name] ?? []).includes(short)) problems.push(...says(`the door ${owner.name} → ${short} is closed`))
  else if (testOnly.has(short) && owner.name !== "gpu" && !isTestCode(path)) {
    problems.push(...says(`only tests may import ${short} from ${owner.name}`))
  }
  if (!owner.declared.has(name)) problems.push(...says(`"${name}" is not declared in ${owner.folder}/package.json`))
  if (!matchesExport(target.exports, `.${specifier.slice(name.length)}`)) {
    problems.push(...says(`"${specifier}" reaches into ${short}`))
  }
  return problems
}

/** A cycle among the edges as a list of names, or undefined. */
const findCycle = (edges: ReadonlyMap<string, ReadonlySet<string>>): ReadonlyArray<string> | undefined => {
  const done = new Set<string>()
  const visit = (name: string, trail: ReadonlyArray<string>): ReadonlyArray<string> | undefined => {
    if (trail.includes(name)) return [...trail.slice(trail.indexOf(name)), name]
    if (done.has(name)) return undefined
    for (const next of edges.get(name) ?? []) {
      const found = visit(next, [...trail, name])
      if (found !== undefined) return found
    }
    done.add(name)
    return undefined
  }
  for (const name of edges.keys()) {
    const found = visit(name, [])
    if (found !== undefined) return found
  }
  return undefined
}

const audit = (list: ReadonlyArray<Package>, rootDeclared: ReadonlySet<string>): ReadonlyArray<string> => {
  const packages = new Map(list.map((each) => [each.name, each]))
  const problems = list
    .filter((each) => doors[each.name] === undefined)
    .map((each) => `${each.folder}: a new package needs its doors in this file`)
  const edges = new Map<string, Set<string>>()
  for (const owner of list) {
    const targets = new Set([...owner.declared].map((name) => name.replace("@srcode/", "")))
    edges.set(owner.name, targets)
    for (const target of targets) {
      if (!(doors[owner.name] ?? []).includes(target)) {
        problems.push(`${owner.folder}/package.json: the door ${owner.name} → ${target} is closed`)
      }
    }
    for (const source of owner.sources) {
      for (const specifier of importsOf(source.text)) {
        problems.push(...checkImport(owner, source.path, specifier, packages, rootDeclared))
        if (specifier.startsWith("@srcode/")) targets.add(packageName(specifier).slice("@srcode/".length))
      }
    }
  }
  const cycle = findCycle(edges)
  if (cycle !== undefined) problems.push(`packages import each other in a circle: ${cycle.join(" → ")}`)
  return problems
}

const limit = 400
const exempt = /(^|\/)manifest\.ts$/
const tooLong = (sources: ReadonlyArray<Source>): ReadonlyArray<string> =>
  sources
    .map((source) => ({ path: source.path, lines: source.text.split("\n").length - 1 }))
    .filter(({ lines, path }) => lines > limit && !exempt.test(path))
    .map(({ lines, path }) => `${path}: ${lines} lines, more than ${limit}: divide it`)

const skipped = new Set(["node_modules", "fixtures", "assets", ".vitest", ".turbo"])
const readSources = (folder: string, extension: RegExp): ReadonlyArray<Source> => {
  const absolute = nodePath.join(root, folder)
  if (!fs.existsSync(absolute)) return []
  return fs.readdirSync(absolute, { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`
    if (entry.isDirectory()) return skipped.has(entry.name) ? [] : readSources(path, extension)
    // Configuration at the top of a package shares the root's and is no part of the program.
    if (!extension.test(entry.name) || /\.config\.ts$/.test(entry.name)) return []
    return [{ path, text: fs.readFileSync(nodePath.join(root, path), "utf8") }]
  })
}

const readManifest = (folder: string) =>
  JSON.parse(fs.readFileSync(nodePath.join(root, folder, "package.json"), "utf8"))

const readPackage = (folder: string): Package => {
  const manifest = readManifest(folder)
  const names = Object.keys({ ...manifest.dependencies, ...manifest.devDependencies })
  return {
    name: String(manifest.name).replace("@srcode/", ""),
    folder,
    declared: new Set(names.filter((name) => name.startsWith("@srcode/"))),
    exports: manifest.exports ?? {},
    sources: readSources(folder, /\.ts$/)
  }
}

const rootManifest = readManifest(".")
const folders: ReadonlyArray<string> = rootManifest.workspaces.flatMap((workspace: string) =>
  workspace.endsWith("/*")
    ? fs.readdirSync(nodePath.join(root, workspace.slice(0, -2))).map((name) => `${workspace.slice(0, -2)}/${name}`)
    : [workspace]
)
const declaredByRoot = new Set(Object.keys({ ...rootManifest.dependencies, ...rootManifest.devDependencies }))

describe("the repository", () => {
  const packages = folders.map(readPackage)

  it("was read: every package has sources with imports", () => {
    assert.isAtLeast(packages.length, 14)
    const trainer = packages.find((each) => each.name === "trainer")
    assert.include(trainer?.sources.flatMap((source) => importsOf(source.text)) ?? [], "@srcode/domain")
  })

  it("imports only through its doors", () => {
    assert.deepStrictEqual(audit(packages, declaredByRoot), [])
  })

  it("has no source file over the limit", () => {
    const scripts = readSources("scripts", /\.mjs$/)
    assert.isAbove(scripts.length, 0)
    assert.deepStrictEqual(tooLong([...packages.flatMap((each) => each.sources), ...scripts]), [])
  })
})

/** A made-up package for showing that the audit finds what it claims to find. */
const made = (name: string, text: string, declared: ReadonlyArray<string> = []): Package => ({
  name,
  folder: `packages/${name}`,
  declared: new Set(declared.map((each) => `@srcode/${each}`)),
  exports: { ".": "./src/index.ts", "./internal/*": null },
  sources: [{ path: `packages/${name}/src/index.ts`, text }]
})

describe("the audit", () => {
  const problems = (...packages: ReadonlyArray<Package>) => audit(packages, new Set(["effect", "webgpu"])).join("\n")

  it("passes a sound package", () => {
    const gpu = made("gpu", 'import { create } from "webgpu"\nimport { X } from "@srcode/domain"', ["domain"])
    assert.strictEqual(problems(made("domain", 'export * from "./Cwe.ts"'), gpu), "")
  })

  it("finds a reversed edge and the circle it makes", () => {
    const model = made("model", 'import type { A } from "@srcode/gpu"', ["gpu"])
    const gpu = made("gpu", 'export { B } from "@srcode/model"', ["model"])
    const text = problems(model, gpu)
    assert.include(text, "the door gpu → model is closed")
    assert.match(text, /in a circle: (model → gpu → model|gpu → model → gpu)/)
  })

  it("finds undeclared imports, ours and others'", () => {
    const model = made("model", 'import { A } from "@srcode/gpu"\nimport x from "left-pad"')
    const text = problems(model, made("gpu", ""))
    assert.include(text, '"@srcode/gpu" is not declared in packages/model/package.json')
    assert.include(text, '"left-pad" is not declared in the root package.json')
  })

  it("finds a reach into another package's inside, by name and by path, also in dynamic and multi-line imports", () => {
    const model = made(
      "model",
      'import {\n  A,\n  B\n} from "@srcode/gpu/internal/device.ts"\nconst x = import("@srcode/gpu/src/Gpu.ts")\nimport "../../gpu/src/Gpu.ts"',
      ["gpu"]
    )
    const text = problems(model, made("gpu", ""))
    assert.include(text, '"@srcode/gpu/internal/device.ts" reaches into gpu')
    assert.include(text, '"@srcode/gpu/src/Gpu.ts" reaches into gpu')
    assert.include(text, '"../../gpu/src/Gpu.ts" leaves the package')
  })

  it("keeps domain to effect, kernels to tests, and asks for the doors of a new package", () => {
    assert.include(problems(made("domain", 'import { create } from "webgpu"')), 'domain may not use "webgpu"')
    const kernels = { ...made("kernels", ""), exports: { "./*/reference": "./*/reference.ts" } }
    const model = made("model", 'import { f } from "@srcode/kernels/matmul/reference"', ["kernels"])
    assert.include(problems(model, kernels), "only tests may import kernels from model")
    assert.include(problems(made("cellar", "")), "needs its doors")
  })

  it("does not take comments or quoted code for imports", () => {
    assert.deepStrictEqual(importsOf('// import x from "a"\n/* import y from "b" */\nimport z from "c" // from "d"'), [
      "c"
    ])
    assert.deepStrictEqual(importsOf('const quoted = \'import("a")\'\nconst b = `import "c"`\nimport("d/*")'), ["d/*"])
  })

  it("finds a file over the limit and spares a manifest", () => {
    const text = "x\n".repeat(401)
    assert.lengthOf(tooLong([{ path: "packages/a/src/Big.ts", text }]), 1)
    assert.lengthOf(tooLong([{ path: "packages/gpu/src/manifest.ts", text }]), 0)
    assert.lengthOf(tooLong([{ path: "packages/a/src/Big.ts", text: "x\n".repeat(400) }]), 0)
  })
})
