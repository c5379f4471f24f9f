/**
 * The shell scripts that run in the sandbox: one that finds the tools, one that runs them all on one snippet.
 *
 * Unusual: a tool's output contains text of the snippet (gcc quotes source lines), so any separator could be forged.
 * Each tool therefore answers with one line `name exitcode base64`, which the snippet cannot break out of.
 */

export interface PanelTools {
  readonly gcc: { readonly version: string; readonly format: "json" | "sarif-stderr" } | null
  readonly clang: { readonly command: string; readonly version: string; readonly checkers: string } | null
  readonly cppcheck: { readonly version: string } | null
}

const clangNames = ["clang", ...[21, 20, 19, 18, 17, 16, 15, 14, 13].map((version) => `clang-${version}`)]

const baseCheckers = "core,unix,security"
/** Finds unterminated and overrun buffers and tainted formats; the `alpha` packages move between versions. */
const fullCheckers = `${baseCheckers},alpha.security,alpha.unix.cstring`

/** Flags memcpy, snprintf and strncpy wherever they stand. */
const noisyChecker = "security.insecureAPI.DeprecatedOrUnsafeBufferHandling"

const clangAnalyze = (command: string, checkers: string): string =>
  `${command} --analyze -Xclang -analyzer-output=sarif -Xclang -analyzer-checker=${checkers}` +
  ` -Xclang -analyzer-disable-checker=${noisyChecker}`

/** Prints `tool<TAB>version line<TAB>mode` for each tool that works, tried on a one-line program. */
export const discoveryScript = `
try_source=/tmp/try.c
echo 'int f(void) { return 0; }' > $try_source
for format in json sarif-stderr; do
  if gcc -fanalyzer -fdiagnostics-format=$format -c -o /dev/null $try_source 2>/dev/null; then
    printf 'gcc\\t%s\\t%s\\n' "$(gcc --version | head -n 1)" "$format"
    break
  fi
done
for command in ${clangNames.join(" ")}; do
  command -v "$command" >/dev/null 2>&1 || continue
  for checkers in ${fullCheckers} ${baseCheckers}; do
    if ${clangAnalyze('"$command"', '"$checkers"')} -o /tmp/try.sarif $try_source 2>/dev/null; then
      printf '%s\\t%s\\t%s\\n' "$command" "$("$command" --version | head -n 1)" "$checkers"
      break 2
    fi
  done
done
if cppcheck --version >/dev/null 2>&1; then
  printf 'cppcheck\\t%s\\t-\\n' "$(cppcheck --version | head -n 1)"
fi
`

export const parseDiscovery = (stdout: string): PanelTools => {
  const rows = stdout.split("\n").map((line) => line.split("\t"))
  const row = (test: (name: string) => boolean) => rows.find(([name]) => name !== undefined && test(name))
  const version = (line: string | undefined) =>
    /\d+\.\d+(?:\.\d+)?/.exec((line ?? "").replace(/\([^)]*\)/g, ""))?.[0] ?? "unknown"
  const gcc = row((name) => name === "gcc")
  const clang = row((name) => name.startsWith("clang"))
  const cppcheck = row((name) => name === "cppcheck")
  return {
    gcc: (gcc && { version: version(gcc[1]), format: gcc[2] === "json" ? "json" : "sarif-stderr" }) || null,
    clang:
      (clang && { command: clang[0] ?? "clang", version: version(clang[1]), checkers: clang[2] ?? baseCheckers }) ||
      null,
    cppcheck: (cppcheck && { version: version(cppcheck[1]) }) || null
  }
}

/** Headers for functions quoted without theirs. Offered only after the snippet alone did not compile. */
export const prelude = `${[
  "assert",
  "ctype",
  "errno",
  "fcntl",
  "inttypes",
  "limits",
  "stdarg",
  "stdbool",
  "stddef",
  "stdint",
  "stdio",
  "stdlib",
  "string",
  "sys/stat",
  "sys/types",
  "time",
  "unistd"
]
  .map((name) => `#include <${name}.h>`)
  .join("\n")}\n`

export const snippetFile = (language: "c" | "cpp"): string => (language === "c" ? "snippet.c" : "snippet.cpp")

const gccWarnings =
  "-Wall -Wextra -Wformat-security -Wnull-dereference -Warray-bounds=2 -Wstringop-overflow=4 -Wshift-overflow -Walloc-zero"

/** Runs every tool on `/job/snippet.*`; `limit` is each tool's wall clock in seconds. */
export const analysisScript = (tools: PanelTools, language: "c" | "cpp", limit: number): string => {
  const file = `/job/${snippetFile(language)}`
  const standard = language === "c" ? "-std=gnu11" : "-std=gnu++17"
  const compiler = tools.gcc === null ? tools.clang?.command : language === "c" ? "gcc" : "g++"
  const lines = [
    "run() {",
    "  name=$1; answer=$2; shift 2",
    `  timeout -s KILL ${limit} "$@" >/tmp/out 2>/tmp/err; code=$?`,
    '  printf "%s %s " "$name" "$code"; head -c 2000000 "$answer" 2>/dev/null | base64 -w 0; echo',
    "}",
    "headers="
  ]
  if (compiler !== undefined) {
    const check = `${compiler} ${standard} -w -fsyntax-only`
    lines.push(
      `if timeout -s KILL ${limit} ${check} ${file} 2>/tmp/first; then compiles=1`,
      `elif timeout -s KILL ${limit} ${check} -include /job/prelude.h ${file} 2>/dev/null; then compiles=1; headers="-include /job/prelude.h"`,
      "else compiles=0; fi",
      'printf "compile %s " "$compiles"; head -c 20000 /tmp/first | base64 -w 0; echo',
      'if [ "$compiles" = 1 ]; then',
      ...(tools.gcc === null
        ? []
        : [
            `run gcc-analyzer /tmp/err ${compiler} ${standard} $headers -O0 -fanalyzer -fdiagnostics-format=${tools.gcc.format} -c -o /dev/null ${file}`,
            `run gcc-warnings /tmp/err ${compiler} ${standard} $headers -O2 ${gccWarnings} -fdiagnostics-format=${tools.gcc.format} -c -o /dev/null ${file}`
          ]),
      ...(tools.clang === null
        ? []
        : [
            `run clang-analyzer /tmp/clang.sarif ${clangAnalyze(tools.clang.command, tools.clang.checkers)} ${standard} $headers -o /tmp/clang.sarif ${file}`
          ]),
      "fi"
    )
  }
  if (tools.cppcheck !== null) {
    const dialect = language === "c" ? "--language=c --std=c11" : "--language=c++ --std=c++17"
    lines.push(
      `run cppcheck /tmp/err cppcheck --xml -q --enable=warning,portability --inconclusive ${dialect} --suppress=missingIncludeSystem --suppress=missingInclude ${file}`
    )
  }
  return `${lines.join("\n")}\n`
}

export interface ToolAnswer {
  readonly exitCode: number
  readonly output: string
}

/** The script's answers by tool name; a line that was cut off is left out. */
export const parseAnswers = (stdout: string): ReadonlyMap<string, ToolAnswer> =>
  new Map(
    stdout
      .split("\n")
      .slice(0, -1)
      .flatMap((line) => {
        const [name, code, data] = line.split(" ")
        if (name === undefined || code === undefined) return []
        return [[name, { exitCode: Number(code), output: Buffer.from(data ?? "", "base64").toString("utf8") }] as const]
      })
  )
