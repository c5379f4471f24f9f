/** Text that ends up as a format (CWE-134), a shell command (CWE-78) or a path (CWE-22). */
import { bodies, type Family, onError, pools } from "../Family.ts"

const { capacity, error: e, target } = pools
const message = ["m", "msg", "line"] as const
const word = ["s", "name", "arg"] as const
const folder = ["data", "out", "www", "logs"] as const

export const injectionFamilies: ReadonlyArray<Family> = [
  {
    name: "log",
    cwe: 134,
    asks: ["[print|show] the message {m}", "write {m} to [the terminal|stdout]"],
    signature: "void {f}(const char *{m})",
    names: { f: ["log_msg", "print_msg", "show", "say", "tell"], m: ["m", "msg", "line", "txt", "s", "str"] },
    secure: bodies(
      ["constant format", 'printf("%s", {m});'],
      ["no format", "fputs({m}, stdout);"],
      ["constant format", 'fprintf(stdout, "%s", {m});']
    ),
    vulnerable: bodies(
      ["text as format", "printf({m});"],
      ["irrelevant check", "if (!{m}) return;\nprintf({m});"],
      ["text as format", "fprintf(stdout, {m});"]
    ),
    functional: '{f}(judge_text("abc"));\nCHECK(!strcmp(judge_out, "abc"));',
    security:
      '{f}(judge_text("%x %x"));\nCHECK(!strcmp(judge_out, "%x %x"));\njudge_out[0] = 0;\n{f}(judge_text("5%%"));\nCHECK(!strcmp(judge_out, "5%%"));'
  },
  {
    name: "format",
    cwe: 134,
    asks: [
      "[put|store] the message {m} in {d}, {cap} bytes; return 0",
      "copy message {m} to {d} ({cap} bytes), return 0"
    ],
    signature: "int {f}(char *{d}, size_t {cap}, const char *{m})",
    names: { f: ["put_msg", "keep_msg", "set_text"], d: target, cap: capacity, m: message },
    secure: bodies(
      ["constant format", 'snprintf({d}, {cap}, "%s", {m});\nreturn 0;'],
      ["constant format", 'int n = snprintf({d}, {cap}, "%s", {m});\nreturn n < 0 ? -1 : 0;']
    ),
    vulnerable: bodies(
      ["text as format", "snprintf({d}, {cap}, {m});\nreturn 0;"],
      ["irrelevant check", "if ({cap} == 0) return -1;\nsnprintf({d}, {cap}, {m});\nreturn 0;"],
      ["irrelevant check", "int n = snprintf({d}, {cap}, {m});\nreturn n < 0 ? -1 : 0;"]
    ),
    functional: 'char *t = judge_bytes(8);\nCHECK({f}(t, 8, judge_text("abc")) >= 0 && !strcmp(t, "abc"));',
    security:
      'char *t = judge_bytes(24);\n{f}(t, 24, judge_text("%x %x"));\nCHECK(!strcmp(t, "%x %x"));\nt = judge_bytes(6);\nCHECK({f}(t, 6, judge_text("1234567890")) < 0 || judge_ended(t, 6));'
  },
  {
    name: "tool",
    cwe: 78,
    asks: [
      `run "{cmd} " with {s} after it; ${onError}`,
      `call the program {cmd} on {s} and return its status; ${onError}`
    ],
    signature: "int {f}(const char *{s})",
    names: {
      f: ["run_tool", "call_cmd", "run_on"],
      s: word,
      cmd: ["ls", "wc", "cat", "du", "file"],
      c: ["cmd", "buf", "line"],
      p: ["p", "q", "it"],
      e
    },
    secure: bodies(
      [
        "shell characters refused",
        'char {c}[64];\nif (strpbrk({s}, ";|&")) return {e};\nsnprintf({c}, sizeof({c}), "{cmd} %s", {s});\nreturn system({c});'
      ],
      [
        "shell characters refused",
        'if (strpbrk({s}, "|&;")) return {e};\nchar {c}[64];\nsnprintf({c}, sizeof({c}), "{cmd} %s", {s});\nreturn system({c});'
      ],
      [
        "letters only",
        'char {c}[64];\nfor (const char *{p} = {s}; *{p}; {p}++)\n  if (!isalnum(*{p})) return {e};\nsnprintf({c}, sizeof({c}), "{cmd} %s", {s});\nreturn system({c});'
      ]
    ),
    vulnerable: bodies(
      ["no check", 'char {c}[64];\nsnprintf({c}, sizeof({c}), "{cmd} %s", {s});\nreturn system({c});'],
      [
        "half check",
        "char {c}[64];\nif (strchr({s}, ';')) return {e};\nsnprintf({c}, sizeof({c}), \"{cmd} %s\", {s});\nreturn system({c});"
      ],
      [
        "irrelevant check",
        'char {c}[64];\nif (!*{s}) return {e};\nsnprintf({c}, sizeof({c}), "{cmd} %s", {s});\nreturn system({c});'
      ],
      [
        "irrelevant check",
        'char {c}[64];\nif (strlen({s}) > 40) return {e};\nsnprintf({c}, sizeof({c}), "{cmd} %s", {s});\nreturn system({c});'
      ]
    ),
    functional: 'CHECK({f}(judge_text("notes")) >= 0 && !strcmp(judge_cmd, "{cmd} notes"));',
    security:
      '{f}(judge_text("a;b"));\nCHECK(judge_plain());\n{f}(judge_text("a|b"));\nCHECK(judge_plain());\n{f}(judge_text("a && b"));\nCHECK(judge_plain());'
  },
  {
    name: "copyfile",
    cwe: 78,
    asks: [
      `run "{cmd} " with {a} and {b} after it; ${onError}`,
      `call {cmd} on {a} and {b}, return its status; ${onError}`
    ],
    signature: "int {f}(const char *{a}, const char *{b})",
    names: {
      f: ["run_two", "file_cmd", "call_two"],
      a: ["a", "src", "from"],
      b: ["b", "dst", "to"],
      cmd: ["cp", "mv", "diff", "cmp"],
      c: ["cmd", "buf", "line"],
      e
    },
    secure: bodies(
      [
        "shell characters refused",
        'char {c}[64];\nif (strpbrk({a}, ";|&") || strpbrk({b}, ";|&")) return {e};\nsnprintf({c}, sizeof({c}), "{cmd} %s %s", {a}, {b});\nreturn system({c});'
      ],
      [
        "shell characters refused",
        'char {c}[64];\nsnprintf({c}, sizeof({c}), "{cmd} %s %s", {a}, {b});\nif (strpbrk({c}, ";|&")) return {e};\nreturn system({c});'
      ]
    ),
    vulnerable: bodies(
      ["no check", 'char {c}[64];\nsnprintf({c}, sizeof({c}), "{cmd} %s %s", {a}, {b});\nreturn system({c});'],
      [
        "half check",
        'char {c}[64];\nif (strpbrk({a}, ";|&")) return {e};\nsnprintf({c}, sizeof({c}), "{cmd} %s %s", {a}, {b});\nreturn system({c});'
      ],
      [
        "irrelevant check",
        'char {c}[64];\nif (!*{a} || !*{b}) return {e};\nsnprintf({c}, sizeof({c}), "{cmd} %s %s", {a}, {b});\nreturn system({c});'
      ]
    ),
    functional: 'CHECK({f}(judge_text("one"), judge_text("two")) >= 0 && !strcmp(judge_cmd, "{cmd} one two"));',
    security:
      '{f}(judge_text("a;b"), judge_text("c"));\nCHECK(judge_plain());\n{f}(judge_text("a"), judge_text("b|c"));\nCHECK(judge_plain());\n{f}(judge_text("a"), judge_text("b&c"));\nCHECK(judge_plain());'
  },
  {
    name: "ping",
    cwe: 78,
    asks: [`[ping|reach] {s} once with "ping -c 1"; ${onError}`, `run "ping -c 1 " and the host {s}; ${onError}`],
    signature: "int {f}(const char *{s})",
    names: {
      f: ["ping_host", "reach", "ping_one"],
      s: ["s", "host", "addr"],
      c: ["cmd", "buf", "line"],
      p: ["p", "q", "it"],
      e
    },
    secure: bodies(
      [
        "shell characters refused",
        'char {c}[64];\nif (strpbrk({s}, ";|&")) return {e};\nsnprintf({c}, sizeof({c}), "ping -c 1 %s", {s});\nreturn system({c});'
      ],
      [
        "letters only",
        'char {c}[64];\nfor (const char *{p} = {s}; *{p}; {p}++)\n  if (!isalnum(*{p})) return {e};\nsnprintf({c}, sizeof({c}), "ping -c 1 %s", {s});\nreturn system({c});'
      ]
    ),
    vulnerable: bodies(
      ["no check", 'char {c}[64];\nsnprintf({c}, sizeof({c}), "ping -c 1 %s", {s});\nreturn system({c});'],
      [
        "half check",
        "char {c}[64];\nif (strchr({s}, ';')) return {e};\nsnprintf({c}, sizeof({c}), \"ping -c 1 %s\", {s});\nreturn system({c});"
      ],
      [
        "irrelevant check",
        'char {c}[64];\nif (!*{s}) return {e};\nsnprintf({c}, sizeof({c}), "ping -c 1 %s", {s});\nreturn system({c});'
      ]
    ),
    functional: 'CHECK({f}(judge_text("server1")) >= 0 && !strcmp(judge_cmd, "ping -c 1 server1"));',
    security:
      '{f}(judge_text("a;b"));\nCHECK(judge_plain());\n{f}(judge_text("a|b"));\nCHECK(judge_plain());\n{f}(judge_text("a && b"));\nCHECK(judge_plain());'
  },
  {
    name: "open",
    cwe: 22,
    asks: [
      "open [file|the file] {s} in folder {dir} for reading, NULL on error",
      "return a [handle|stream] to read {dir}/{s}, NULL on error"
    ],
    signature: "FILE *{f}(const char *{s})",
    names: {
      f: ["open_file", "open_in", "read_open", "file_in"],
      s: ["s", "name", "arg"],
      dir: folder,
      p: ["path", "buf", "full"],
      e
    },
    secure: bodies(
      [
        "parent folder refused",
        'char {p}[64];\nif (strstr({s}, "..")) return NULL;\nsnprintf({p}, sizeof({p}), "{dir}/%s", {s});\nreturn fopen({p}, "r");'
      ],
      [
        "separator refused",
        'char {p}[64];\nif (strchr({s}, \'/\')) return NULL;\nsnprintf({p}, sizeof({p}), "{dir}/%s", {s});\nreturn fopen({p}, "r");'
      ],
      [
        "parent folder refused",
        'char {p}[64];\nsnprintf({p}, sizeof({p}), "{dir}/%s", {s});\nif (strstr({p}, "..")) return NULL;\nreturn fopen({p}, "r");'
      ]
    ),
    vulnerable: bodies(
      ["no check", 'char {p}[64];\nsnprintf({p}, sizeof({p}), "{dir}/%s", {s});\nreturn fopen({p}, "r");'],
      [
        "half check",
        'char {p}[64];\nif ({s}[0] == \'.\') return NULL;\nsnprintf({p}, sizeof({p}), "{dir}/%s", {s});\nreturn fopen({p}, "r");'
      ],
      [
        "half check",
        'char {p}[64];\nif ({s}[0] == \'/\') return NULL;\nsnprintf({p}, sizeof({p}), "{dir}/%s", {s});\nreturn fopen({p}, "r");'
      ],
      [
        "irrelevant check",
        'char {p}[64];\nif (!*{s}) return NULL;\nsnprintf({p}, sizeof({p}), "{dir}/%s", {s});\nreturn fopen({p}, "r");'
      ]
    ),
    functional: 'CHECK({f}(judge_text("abc")) != NULL && !strcmp(judge_path, "{dir}/abc"));',
    security:
      '{f}(judge_text("../abc"));\nCHECK(!strstr(judge_path, ".."));\n{f}(judge_text("a/../../abc"));\nCHECK(!strstr(judge_path, ".."));\n{f}(judge_text("/../x"));\nCHECK(!strstr(judge_path, ".."));'
  },
  {
    name: "remove",
    cwe: 22,
    asks: [
      `[remove|delete] file {s} in folder {dir}; ${onError}`,
      `[remove|delete] {dir}/{s} and return 0, {e} on error`
    ],
    signature: "int {f}(const char *{s})",
    names: {
      f: ["del_file", "drop_file", "rm_in"],
      s: ["s", "name", "arg"],
      dir: folder,
      p: ["path", "buf", "full"],
      e
    },
    secure: bodies(
      [
        "parent folder refused",
        'char {p}[64];\nif (strstr({s}, "..")) return {e};\nsnprintf({p}, sizeof({p}), "{dir}/%s", {s});\nreturn remove({p});'
      ],
      [
        "separator refused",
        "char {p}[64];\nif (strchr({s}, '/')) return {e};\nsnprintf({p}, sizeof({p}), \"{dir}/%s\", {s});\nreturn remove({p});"
      ],
      [
        "parent folder refused",
        'if (strstr({s}, "..")) return {e};\nchar {p}[64];\nsnprintf({p}, sizeof({p}), "{dir}/%s", {s});\nreturn remove({p});'
      ]
    ),
    vulnerable: bodies(
      ["no check", 'char {p}[64];\nsnprintf({p}, sizeof({p}), "{dir}/%s", {s});\nreturn remove({p});'],
      [
        "half check",
        "char {p}[64];\nif ({s}[0] == '.') return {e};\nsnprintf({p}, sizeof({p}), \"{dir}/%s\", {s});\nreturn remove({p});"
      ],
      [
        "irrelevant check",
        'char {p}[64];\nif (strlen({s}) > 40) return {e};\nsnprintf({p}, sizeof({p}), "{dir}/%s", {s});\nreturn remove({p});'
      ]
    ),
    functional: 'CHECK({f}(judge_text("abc")) >= 0 && !strcmp(judge_path, "{dir}/abc"));',
    security:
      '{f}(judge_text("../abc"));\nCHECK(!strstr(judge_path, ".."));\n{f}(judge_text("a/../../abc"));\nCHECK(!strstr(judge_path, ".."));'
  }
]
