/**
 * The one text step between a `.wgsl` file and the compiler: constants are set and marked loops are unrolled.
 *
 * `//@include op/_part.wgsl` on a line of its own stands for that file's text (parts are not kernels: their names begin with an
 * underscore). `const ROWS = 8u; //@const` may be given another value; `//@for i 0 ROWS` … `//@end` repeats its lines with `$i`
 * replaced (nesting allowed; bounds are integers or constants). Arrays of accumulators must be named variables:
 * software drivers keep dynamically indexed ones in memory, and `subgroupBroadcast` wants literal lanes.
 */
const constantLine = /^const\s+([A-Z][A-Z0-9_]*)\s*(?::\s*u32\s*)?=\s*([0-9]+)u?\s*;\s*\/\/@const\b.*$/

const includeLine = /^\s*\/\/@include\s+(\S+)\s*$/

/** The text with its includes put in, to any depth; `read` gives the text of a file under `kernels/`. */
export const inline = (source: string, read: (path: string) => string): string =>
  source
    .split("\n")
    .map((line) => {
      const path = includeLine.exec(line)?.[1]
      return path === undefined ? line : inline(read(path), read).trimEnd()
    })
    .join("\n")

/** The specialisable constants of a source text with their values. */
export const constantsOf = (source: string): Record<string, number> =>
  Object.fromEntries(
    source.split("\n").flatMap((line) => {
      const match = constantLine.exec(line.trim())
      return match ? [[match[1], Number(match[2])] as const] : []
    })
  )

/** Sets constants and unrolls loops; line structure outside of loops is kept, so compiler messages still point right. */
export const expand = (source: string, constants: Readonly<Record<string, number>> = {}): string => {
  const values = { ...constantsOf(source), ...constants }
  const lines = source.split("\n").map((line) => {
    const match = constantLine.exec(line.trim())
    return match ? `const ${match[1]} = ${values[match[1]!]}u;` : line
  })
  const bound = (text: string): number => (/^[0-9]+$/.test(text) ? Number(text) : (values[text] ?? Number.NaN))
  const block = (from: number): readonly [ReadonlyArray<string>, number] => {
    const out: Array<string> = []
    let i = from
    while (i < lines.length) {
      const line = lines[i]!
      const open = /^\s*\/\/@for\s+(\w+)\s+(\w+)\s+(\w+)\s*$/.exec(line)
      if (open) {
        const [inner, next] = block(i + 1)
        const [low, high] = [bound(open[2]!), bound(open[3]!)]
        // A misspelt bound must not drop the loop silently: this line does not compile and names it.
        if (Number.isNaN(low + high)) out.push(`unknown_loop_bound ${open[2]} ${open[3]};`)
        for (let k = low; k < high; k++) for (const l of inner) out.push(l.replaceAll(`$${open[1]}`, String(k)))
        i = next
      } else if (/^\s*\/\/@end\s*$/.test(line)) {
        return [out, i + 1]
      } else {
        out.push(line)
        i++
      }
    }
    return [out, i]
  }
  return block(0)[0].join("\n")
}
