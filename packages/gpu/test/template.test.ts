/** The text step between a kernel file and the compiler, and the manifest that is generated from the files. */
import { spawnSync } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { kernelNames, kernelSpec } from "../src/index.ts"
import { constantsOf, expand } from "../src/internal/template.ts"

describe("template", () => {
  it("finds constants that are marked, and no others", () => {
    const source =
      "const A = 8u; //@const lanes\nconst B = 3u;\n  const C : u32 = 12u; //@const\nconst d = 4u; //@const\n"
    assert.deepStrictEqual(constantsOf(source), { A: 8, C: 12 })
  })

  it("sets constants and keeps the line numbers outside of loops", () => {
    const source = "// top\nconst A = 8u; //@const lanes\nlet x = A;"
    assert.strictEqual(expand(source), "// top\nconst A = 8u;\nlet x = A;")
    assert.strictEqual(expand(source, { A: 4 }), "// top\nconst A = 4u;\nlet x = A;")
  })

  it("unrolls loops, nested ones too, with bounds from numbers and constants", () => {
    const source = [
      "const N = 2u; //@const",
      "//@for i 0 N",
      "  //@for j 1 3",
      "  c$i_$j = a$i * b$ju;",
      "  //@end",
      "  done$i;",
      "//@end",
      "end"
    ].join("\n")
    assert.strictEqual(
      expand(source),
      [
        "const N = 2u;",
        "  c0_1 = a0 * b1u;",
        "  c0_2 = a0 * b2u;",
        "  done0;",
        "  c1_1 = a1 * b1u;",
        "  c1_2 = a1 * b2u;",
        "  done1;",
        "end"
      ].join("\n")
    )
    assert.strictEqual(expand(source, { N: 0 }), "const N = 0u;\nend")
  })

  it("does not drop a loop whose bound is misspelt", () => {
    assert.include(expand("//@for i 0 ROWZ\nlost$i;\n//@end"), "unknown_loop_bound 0 ROWZ")
  })

  it("leaves no directive or loop variable behind in any kernel", () => {
    for (const name of kernelNames) {
      const text = expand(readFileSync(new URL(`../../../kernels/${kernelSpec(name).file}`, import.meta.url), "utf8"))
      assert.notMatch(text.replaceAll(/\/\/.*$/gm, ""), /\$|@for|@end/, name)
    }
  })
})

describe("manifest", () => {
  it("is what the generator would write now", () => {
    const run = spawnSync(process.execPath, [new URL("../scripts/codegen.ts", import.meta.url).pathname, "--check"], {
      encoding: "utf8"
    })
    assert.strictEqual(run.status, 0, run.stderr)
  })

  it("every operation has kernels, a double-precision reference and a page of documentation", () => {
    const root = new URL("../../../kernels/", import.meta.url)
    const folders = readdirSync(root, { withFileTypes: true }).filter(
      (d) => d.isDirectory() && d.name !== "node_modules" && !d.name.startsWith(".")
    )
    assert.isAbove(folders.length, 10)
    for (const { name } of folders) {
      const files = readdirSync(new URL(`${name}/`, root))
      assert.isTrue(
        files.some((f) => f.endsWith(".wgsl")),
        name
      )
      for (const wanted of ["reference.ts", "README.md"]) assert.include(files, wanted, name)
      const page = readFileSync(new URL(`${name}/README.md`, root), "utf8")
      for (const file of files.filter((f) => f.endsWith(".wgsl"))) assert.include(page, file, `${name}/README.md`)
    }
  })
})
