import { assert, describe, it } from "@effect/vitest"
import {
  type CurriculumOrder,
  cwe,
  type ImplicitPrompt,
  type Task,
  Task as TaskSchema,
  type Triplet
} from "@srcode/domain"
import { Schema } from "effect"
import {
  cweShares,
  cyclomaticComplexity,
  type DifficultyFeatures,
  difficulty,
  difficultyWeights,
  filterPrompts,
  findLeak,
  makeRandom,
  orderTasks,
  splitByGroup,
  tasksFromTriplets,
  tripletDifficulty
} from "../src/index.ts"

const vulnerable = "int get(int *a, int n, int i)\n{\n  int v = a[i];\n  return v;\n}\n"
const secure =
  "int get(int *a, int n, int i)\n{\n  if (i < 0 || i >= n)\n    return -1;\n  int v = a[i];\n  return v;\n}\n"
const prompts: ReadonlyArray<ImplicitPrompt> = [
  { kind: "requirement", text: "Return element i of the array a." },
  { kind: "prefix", text: "int get(int *a, int n, int i)\n{\n" }
]
const triplet = (id: string, number = 125, rounds = 1): Triplet => ({
  id,
  language: "c",
  cwe: cwe(number),
  prompts,
  vulnerable,
  secure,
  explanation: "checks the index",
  provenance: {
    sampleId: id,
    source: {
      dataset: "primevul",
      idx: id,
      project: "p",
      commitId: `c${id}`,
      commitMessage: "",
      cve: null,
      cveDescription: null
    },
    cwe: cwe(number),
    rounds,
    teacher: "test",
    cost: 0,
    before: { _tag: "Clean", snippetId: id, tools: [] },
    after: { _tag: "Clean", snippetId: id, tools: [] },
    twinSimilarity: null
  }
})

describe("the prompt filter", () => {
  const context = {
    cwe: cwe(125),
    advisory:
      "The get function in foo.c in Bar before 1.2 does not check the index of element lookups, which crashes the daemon",
    vulnerable,
    secure
  }
  const leak = (kind: ImplicitPrompt["kind"], text: string) => findLeak({ kind, text }, context)?.reason ?? null
  it("passes prompts that only say what is wanted", () => {
    for (const prompt of prompts) assert.isNull(findLeak(prompt, context))
    assert.isNull(leak("requirement", "Write get: it returns a[i], or -1 when there is no such element."))
    assert.isNull(leak("requirement", "Copy the file name into the buffer and append the suffix."))
  })
  it("stops every way of giving it away", () => {
    const cases: ReadonlyArray<readonly [ImplicitPrompt["kind"], string, string]> = [
      ["requirement", " \n", "empty"],
      ["requirement", "Avoid CWE-125 here.", "names-id"],
      ["requirement", "As in cve-2020-1234, return a[i].", "names-id"],
      ["requirement", "Return a[i] securely.", "names-security"],
      ["requirement", "Return a[i] without an Out-Of-Bounds read.", "names-security"],
      ["requirement", "Return a[i]; the index is untrusted.", "names-security"],
      ["requirement", "Write it so that an attacker cannot crash it.", "names-security"],
      ["requirement", "Add a bounds check to get.", "names-security"],
      ["requirement", "It does not check the index of anything.", "advisory"],
      ["requirement", "Start with if ( i<0 || i >=n ) and go on.", "fix"],
      ["prefix", "int get(int *a, int n, int i)\n{\n  if (i < 0 || i >= n)\n", "fix"],
      ["prefix", vulnerable, "whole-function"],
      ["requirement", "x".repeat(20_000), "too-long"]
    ]
    for (const [kind, text, reason] of cases) assert.strictEqual(leak(kind, text), reason, text.slice(0, 60))
  })
  it("lets a prefix keep the words of its own code, a requirement not", () => {
    const own = {
      ...context,
      vulnerable: "int f(int overflow)\n{\n  return overflow;\n}",
      secure: "int f(int overflow)\n{\n  return 0;\n}"
    }
    const text = "int f(int overflow)\n{"
    assert.isNull(findLeak({ kind: "prefix", text }, own))
    assert.strictEqual(findLeak({ kind: "requirement", text }, own)?.reason, "names-security")
  })
  it("knows identifiers that only the fix has", () => {
    const own = {
      ...context,
      secure: "int get(int *a, int n, int i)\n{\n  int v = CHECKED_AT(a, n, i);\n  return v;\n}\n"
    }
    assert.strictEqual(
      findLeak({ kind: "requirement", text: "Use CHECKED_AT to return an element." }, own)?.reason,
      "fix"
    )
  })
  it("splits a list and keeps the order", () => {
    const bad: ImplicitPrompt = { kind: "requirement", text: "Be safe." }
    const result = filterPrompts([bad, ...prompts], context)
    assert.deepStrictEqual(result.kept, prompts)
    assert.deepStrictEqual(
      result.leaks.map((one) => [one.kind, one.reason]),
      [["requirement", "names-security"]]
    )
  })
})

describe("difficulty", () => {
  const easy: DifficultyFeatures = { changedLines: 1, hunks: 1, lines: 5, complexity: 1, cweShare: 0.5, rounds: 1 }
  it("lies in [0, 1] and rises with every feature (1,000 seeded cases)", () => {
    const random = makeRandom(3, "difficulty")
    for (let round = 0; round < 1000; round++) {
      const base: DifficultyFeatures = {
        changedLines: random.below(200),
        hunks: 1 + random.below(20),
        lines: 1 + random.below(2000),
        complexity: 1 + random.below(200),
        cweShare: random.unit(),
        rounds: 1 + random.below(5)
      }
      const value = difficulty(base)
      assert.isTrue(value >= 0 && value <= 1)
      for (const key of ["changedLines", "hunks", "lines", "complexity", "rounds"] as const)
        assert.isAbove(difficulty({ ...base, [key]: base[key] + 1 }), value, key)
      assert.isAtMost(difficulty({ ...base, cweShare: Math.min(1, base.cweShare + 0.1) }), value)
    }
    const sum = Object.values(difficultyWeights).reduce((a, b) => a + b)
    assert.isTrue(Math.abs(sum - 1) < 1e-12)
    assert.isTrue(
      difficulty({ changedLines: 1e9, hunks: 1e9, lines: 1e9, complexity: 1e9, cweShare: 0, rounds: 1e9 }) > 0.999
    )
    assert.isTrue(difficulty(easy) < 0.15)
  })
  it("counts decisions, not words in comments and strings", () => {
    assert.strictEqual(cyclomaticComplexity("int f() { return 0; }", "c"), 1)
    assert.strictEqual(
      cyclomaticComplexity(
        `int f() { if (a && b || c) for (;;) while (x) ; /* if */ puts("if (x) && y"); return a ? b : c; }`,
        "c"
      ),
      1 + 6
    )
    assert.strictEqual(cyclomaticComplexity("switch (x) { case 1: case 2: default: ; } // for", "c"), 3)
    assert.strictEqual(
      cyclomaticComplexity("def f(a):\n  if a and b:  # or if\n    return 'while'\n  elif c:\n    pass\n", "python"),
      4
    )
  })
  it("of triplets takes rarity from all of them", () => {
    const all = [triplet("1"), triplet("2"), triplet("3"), triplet("4", 416)]
    const shares = cweShares(all)
    assert.strictEqual(shares.get(cwe(125)), 0.75)
    assert.isAbove(tripletDifficulty(triplet("4", 416), shares), tripletDifficulty(triplet("1"), shares))
    assert.isAbove(tripletDifficulty(triplet("1", 125, 3), shares), tripletDifficulty(triplet("1"), shares))
  })
})

describe("tasks", () => {
  const tasks = tasksFromTriplets([triplet("1"), triplet("2")])
  it("are two detections, a repair and one generation per prompt, in the domain's schema", () => {
    assert.deepStrictEqual(
      tasks.slice(0, 5).map((task) => task.kind),
      ["detect", "detect", "repair", "generate", "generate"]
    )
    for (const task of tasks) assert.deepStrictEqual(Schema.decodeUnknownSync(TaskSchema)(task), task)
    assert.strictEqual(new Set(tasks.map((task) => task.id)).size, tasks.length)
    assert.strictEqual(new Set(tasks.map((task) => task.group)).size, 2)
  })
  it("answer with the class and the place, and never show the fix", () => {
    assert.strictEqual(tasks[0]?.completion, "vulnerable CWE-125\nline 3: int v = a[i];")
    assert.strictEqual(tasks[1]?.completion, "secure")
    assert.include(tasks[2]?.prompt, vulnerable.trim())
    assert.include(tasks[2]?.completion, "if (i < 0 || i >= n)")
    for (const task of tasks.filter((one) => one.id.includes("repair") || one.kind === "generate"))
      assert.notInclude(task.prompt, "i >= n")
  })
  it("leave the rest of the function to a prefix and all of it to a requirement", () => {
    assert.strictEqual(tasks[3]?.completion, secure)
    assert.strictEqual(`${tasks[4]?.prompt}${tasks[4]?.completion}`, secure)
  })
})

describe("orders", () => {
  const random = makeRandom(1, "tasks")
  const tasks: ReadonlyArray<Task> = Array.from({ length: 120 }, (_, index) => ({
    id: `t${index}`,
    kind: (["generate", "detect", "repair"] as const)[index % 3] ?? "detect",
    group: `g${index % 17}`,
    language: "c",
    cwe: cwe(125),
    difficulty: random.below(5) / 4,
    prompt: "",
    completion: ""
  }))
  const ranks = (list: ReadonlyArray<Task>) => list.map((task) => ["detect", "repair", "generate"].indexOf(task.kind))
  const isSorted = (list: ReadonlyArray<number>) =>
    list.every((value, index) => index === 0 || (list[index - 1] ?? 0) <= value)
  const ids = (list: ReadonlyArray<Task>) => list.map((task) => task.id)
  const orders: ReadonlyArray<CurriculumOrder> = ["progressive", "noRepair", "shuffledWithinKind", "random"]

  it("depend on the tasks and the seed, not on how the tasks came", () => {
    for (const order of orders) {
      const once = ids(orderTasks(tasks, order, 5))
      assert.deepStrictEqual(ids(orderTasks(makeRandom(9).shuffle(tasks), order, 5)), once)
      assert.deepStrictEqual(
        [...once].sort(),
        ids(tasks)
          .filter((id) => order !== "noRepair" || Number(id.slice(1)) % 3 !== 2)
          .sort()
      )
    }
    for (const order of ["shuffledWithinKind", "random"] as const)
      assert.notDeepEqual(ids(orderTasks(tasks, order, 5)), ids(orderTasks(tasks, order, 6)))
  })
  it("progressive and noRepair go from kind to kind and from easy to hard", () => {
    for (const order of ["progressive", "noRepair"] as const) {
      const list = orderTasks(tasks, order, 0)
      assert.isTrue(isSorted(ranks(list)))
      for (const kind of ["detect", "repair", "generate"])
        assert.isTrue(isSorted(list.filter((task) => task.kind === kind).map((task) => task.difficulty)))
    }
    assert.isFalse(orderTasks(tasks, "noRepair", 0).some((task) => task.kind === "repair"))
  })
  it("shuffledWithinKind keeps kinds and loses difficulty, random loses both", () => {
    const within = orderTasks(tasks, "shuffledWithinKind", 0)
    assert.isTrue(isSorted(ranks(within)))
    assert.isFalse(isSorted(within.filter((task) => task.kind === "detect").map((task) => task.difficulty)))
    assert.isFalse(isSorted(ranks(orderTasks(tasks, "random", 0))))
  })
  it("splits never separate a group and do not move when data is added", () => {
    const split = splitByGroup(tasks, (task) => task.group, 0.3, 11)
    const held = new Set(split.heldOut.map((task) => task.group))
    assert.isTrue(held.size > 0 && held.size < 17)
    assert.isFalse(split.kept.some((task) => held.has(task.group)))
    assert.strictEqual(split.kept.length + split.heldOut.length, tasks.length)
    const fewer = splitByGroup(tasks.slice(0, 40), (task) => task.group, 0.3, 11)
    assert.isTrue(
      fewer.heldOut.every((task) => held.has(task.group)) && fewer.kept.every((task) => !held.has(task.group))
    )
    const shares = [0, 1].map((fraction) => splitByGroup(tasks, (task) => task.group, fraction, 1).heldOut.length)
    assert.deepStrictEqual(shares, [0, tasks.length])
  })
})
