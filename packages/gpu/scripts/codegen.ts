/**
 * Reads every `kernels/<op>/<variant>.wgsl` (files that begin with an underscore are parts of others), reflects its interface and writes `src/manifest.ts`. `--check` writes
 * nothing and fails when the committed file differs.
 *
 * Function bodies are blanked before reflection: the reflector does not know matrix-unit types, and needs only the
 * declarations. Dawn's null backend compiles the whole text in the tests.
 */
import { createHash } from "node:crypto"
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { WgslReflect } from "wgsl_reflect/wgsl_reflect.module.js"
import { constantsOf, expand, inline } from "../src/internal/template.ts"

const root = new URL("../../../kernels/", import.meta.url)
const target = new URL("../src/manifest.ts", import.meta.url)

const blankBodies = (source: string): string => {
  let out = ""
  let depth = 0
  let inFunction = false
  for (const line of source.split("\n")) {
    const text = line.replace(/\/\/.*$/, "")
    if (depth === 0 && /\bfn\s+\w+/.test(text)) inFunction = true
    if (!inFunction) {
      out += `${text}\n`
      continue
    }
    for (const ch of text) {
      if (ch === "{") {
        if (depth++ === 0) out += "{ "
      } else if (ch === "}") {
        if (--depth === 0) {
          out += "}"
          inFunction = false
        }
      } else if (depth === 0) out += ch
    }
    out += "\n"
  }
  return out
}

const fail = (file: string, why: string): never => {
  process.stderr.write(`codegen: ${file}: ${why}\n`)
  process.exit(1)
}

const read = (path: string): string => readFileSync(new URL(path, root), "utf8")

const entries: Array<string> = []
for (const op of readdirSync(root, { withFileTypes: true })
  .filter((d) => d.isDirectory() && d.name !== "node_modules" && !d.name.startsWith("."))
  .map((d) => d.name)
  .sort()) {
  for (const file of readdirSync(new URL(`${op}/`, root))
    .filter((f) => f.endsWith(".wgsl") && !f.startsWith("_"))
    .sort()) {
    const path = `${op}/${file}`
    const source = inline(read(path), read)
    const text = blankBodies(expand(source))
    const reflect = new WgslReflect(text)
    const entry = reflect.entry.compute
    if (entry.length !== 1 || entry[0]!.name !== "main") fail(path, "one compute entry point named main is expected")
    const size = /@workgroup_size\(([^)]*)\)/.exec(text)?.[1] ?? fail(path, "no workgroup size")
    const workgroupSize = size
      .split(",")
      .map((s) => s.trim())
      .map((s) => (/^[0-9]+$/.test(s) ? Number(s) : s))
    while (workgroupSize.length < 3) workgroupSize.push(1)
    const bindings: Record<string, unknown> = {}
    for (const match of text.matchAll(
      /@group\((\d+)\)\s*@binding\((\d+)\)\s*var<storage,\s*(read|read_write)>\s*(\w+)\s*:\s*array<(vec[24]<)?(f32|u32)>?>/g
    )) {
      if (match[1] !== "0") fail(path, "only group 0 is used")
      bindings[match[4]!] = { binding: Number(match[2]), access: match[3], element: match[6] }
    }
    if (Object.keys(bindings).length !== reflect.storage.length)
      fail(path, "a storage binding is not an array of f32, u32 or vectors of them with its access written out")
    const struct =
      reflect.structs.find((s: { name: string }) => s.name === "Params") ?? fail(path, "struct Params is missing")
    const params: Record<string, string> = {}
    struct.members.forEach((m: { name: string; offset: number; type: { name: string } }, i: number) => {
      if ((m.type.name !== "u32" && m.type.name !== "f32") || m.offset !== 4 * i)
        fail(path, `parameter ${m.name} is not a 32-bit scalar`)
      params[m.name] = m.type.name
    })
    if (struct.members.length > 16) fail(path, "more than 64 bytes of parameters")
    const features = [...source.matchAll(/^enable\s+([^;]+);/gm)].flatMap((m) => m[1]!.split(",").map((f) => f.trim()))
    const name = `${op}_${file.slice(0, -5)}`
    const spec = {
      file: path,
      hash: createHash("sha256").update(source).digest("hex").slice(0, 16),
      workgroupSize,
      features,
      bindings,
      params,
      constants: constantsOf(source)
    }
    entries.push(`  ${name}: ${JSON.stringify(spec)}`)
  }
}

const output = `/** Generated from kernels/ by scripts/codegen.ts; do not edit. */
import type { KernelSpec } from "./Kernel.ts"

export const manifest = {
${entries.join(",\n")}
} as const satisfies Record<string, KernelSpec>
`
const current = (() => {
  try {
    return readFileSync(target, "utf8")
  } catch {
    return ""
  }
})()
if (process.argv.includes("--check")) {
  if (current !== output) {
    process.stderr.write("codegen: packages/gpu/src/manifest.ts is out of date: run `npm run codegen` and commit it\n")
    process.exit(1)
  }
} else if (current !== output) writeFileSync(target, output)
process.stdout.write(`codegen: ${entries.length} kernels${current === output ? ", unchanged" : ""}\n`)
