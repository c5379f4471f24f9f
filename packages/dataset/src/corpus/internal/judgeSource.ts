/**
 * The C file and the script that decide over one program.
 *
 * A run counts as passed only if it prints the secret it was given as argument: a program that ends the process early,
 * whatever its exit code, has not passed. The secret depends on the program's own text, so no program can contain it.
 */
import { prelude, testSupport } from "../Prelude.ts"
import type { JudgeTask } from "../TinyProblem.ts"

/** The part that differs from task to task and from program to program; equal texts have equal judgements. */
export const judgedText = (task: JudgeTask, body: string): string => `#line 1 "program.c"
${task.prompt}${body}
${testSupport}
static int judge_functional(void) {
#line 1 "functional test"
${task.functionalTest}
  return 0;
}
static int judge_security(void) {
#line 1 "security test"
${task.securityTest}
  return 0;
}
`

const mainFunction = `
int main(int count, char **args) {
  if (count != 3) return 2;
  int functional = args[1][0] == 'f';
  if (functional) judge_slack = 64, judge_keep = 1;
  int line = functional ? judge_functional() : judge_security();
  if (line) dprintf(2, "%s test, line %d\\n", functional ? "functional" : "security", line);
  else dprintf(1, "%s passed %s\\n", args[1], args[2]);
  return line != 0;
}
`

export const judgeSource = (text: string): string => `${prelude}${text}${mainFunction}`

/**
 * Exit codes: 0 judged (see stdout), 70 no compiler, 71 the program does not compile. The program's own output cannot
 * be mistaken for ours because it does not know the secret ($1). `-ftrivial-auto-var-init=pattern` makes the value of a
 * variable that was never set the same on every run and outside what tests accept.
 */
export const judgeScript = `compiler=$(command -v gcc || command -v clang) || exit 70
linker=
if command -v ld.gold >/dev/null; then linker=-fuse-ld=gold; fi
"$compiler" -O0 -std=gnu11 -pedantic-errors -Werror=implicit-function-declaration -Werror=nested-externs \\
  -Werror=int-conversion -Werror=incompatible-pointer-types -Werror=return-type \\
  -fno-builtin -ftrivial-auto-var-init=pattern -fsanitize=address,undefined -fno-sanitize-recover=all \\
  $linker -o program /job/program.c 2>compile.log || { head -c 4000 compile.log >&2; exit 71; }
ulimit -t 1
ulimit -c 0
./program f "$1"
./program s "$1"
exit 0
`

export const judgeEnvironment = {
  ASAN_OPTIONS: "detect_leaks=0:symbolize=0:allocator_may_return_null=1:detect_stack_use_after_return=0",
  UBSAN_OPTIONS: "print_stacktrace=0:symbolize=0"
} as const

/** The one line worth keeping of what compiler, sanitizers and tests wrote. */
export const firstReason = (stderr: string): string => {
  const line =
    /ERROR: AddressSanitizer: ([\w-]+(?: on unknown address)?)/.exec(stderr)?.[1] ??
    /runtime error: ([^\n]*)/.exec(stderr)?.[1] ??
    /(?:functional|security) test, line \d+/.exec(stderr)?.[0] ??
    /error: ([^\n]*)/.exec(stderr)?.[1] ??
    stderr.trim().split("\n")[0] ??
    ""
  return line.slice(0, 200)
}
