import type { Call } from "./Call.ts"
import { guard } from "./Fixes.ts"

/** Whether the text cannot hold any of these, itself or in each part it was made of. */
const lacks = (call: Call, key: string, wanted: ReadonlyArray<ReadonlyArray<string>>): boolean => {
  const { state, walk } = call
  const clean = (text: string): boolean => {
    if (state.flags.has(`only:${text}`)) {
      walk.credit(
        [state.flags.get(`only:${text}`) ?? null],
        78,
        "input filter",
        `${text} holds allowed characters only`
      )
      return true
    }
    const met = wanted.find((all) => all.every((what) => state.flags.has(`no:${text}:${what}`)))
    for (const what of met ?? [])
      walk.credit([state.flags.get(`no:${text}:${what}`) ?? null], 78, "input filter", `${text} cannot hold ${what}`)
    return met !== undefined
  }
  if (clean(key)) return true
  const parts = state.cell(key).parts
  return parts?.map(clean).every((ok) => ok) ?? false
}

const tainted = (call: Call): { key: string; sources: ReadonlyArray<string> } | undefined => {
  const [arg] = call.args
  if (arg?.key === undefined || arg.literal !== undefined) return undefined
  const parts = call.state.cell(arg.key).parts
  if (parts === undefined && !call.walk.isParam(arg.key)) return undefined
  const sources = parts ?? [arg.key]
  return sources.length === 0 ? undefined : { key: arg.key, sources }
}

export const shell = (call: Call): void => {
  const found = tainted(call)
  if (found === undefined || lacks(call, found.key, [[";", "|", "&"]])) return
  const test = found.sources.map((s) => `strpbrk(${s}, ";|&$\`<>\\n")`).join(" || ")
  call.walk.report({
    cwe: 78,
    severity: "critical",
    message: `${found.key} reaches the shell with unfiltered text`,
    node: call.node,
    fixes: [guard(call.walk, call.node, test, call.state)]
  })
}

export const checkPath = (call: Call): void => {
  const found = tainted(call)
  // A whole path given by the caller is the caller's business; a name put behind a folder must stay in it.
  if (found === undefined || call.state.cell(found.key).parts === undefined) return
  if (lacks(call, found.key, [[".."], ["/"]])) return
  const test = found.sources.map((s) => `strstr(${s}, "..")`).join(" || ")
  call.walk.report({
    cwe: 22,
    severity: "high",
    message: `${found.key} may lead out of its folder`,
    node: call.node,
    fixes: [guard(call.walk, call.node, test, call.state)]
  })
}
