/** Results that nobody looked at (CWE-252). */
import { bodies, type Family, onError, pools } from "../Family.ts"

const { count, error: e, handle, target, text } = pools

export const resultFamilies: ReadonlyArray<Family> = [
  {
    name: "parse",
    cwe: 252,
    asks: [
      `[decimal number|number] in the text {s}; ${onError}`,
      `[parse|read] {s} as an int and return it, {e} on error`
    ],
    signature: "int {f}(const char *{s})",
    names: { f: ["parse_num", "to_int", "read_int"], s: text, x: ["x", "val", "v"], e },
    secure: bodies(
      ["result tested", 'int {x};\nif (sscanf({s}, "%d", &{x}) != 1) return {e};\nreturn {x};'],
      ["result tested", 'int {x} = 0;\nreturn sscanf({s}, "%d", &{x}) == 1 ? {x} : {e};'],
      ["set at start", 'int {x} = {e};\nsscanf({s}, "%d", &{x});\nreturn {x};']
    ),
    vulnerable: bodies(
      ["result ignored", 'int {x};\nsscanf({s}, "%d", &{x});\nreturn {x};'],
      ["result ignored", 'int {x} = 0;\nsscanf({s}, "%d", &{x});\nreturn {x};'],
      ["irrelevant check", 'int {x};\nif (!*{s}) return {e};\nsscanf({s}, "%d", &{x});\nreturn {x};']
    ),
    functional: 'CHECK({f}(judge_text("42")) == 42 && {f}(judge_text("7")) == 7 && {f}(judge_text("0")) == 0);',
    security: 'CHECK(NEG({f}(judge_text("abc"))));\nCHECK(NEG({f}(judge_text(""))));'
  },
  {
    name: "readline",
    cwe: 252,
    asks: [
      `read a line from {h} into {d} ({n} bytes), return its length; ${onError}`,
      `length of the next line of {h}, kept in {d} ({n} bytes); ${onError}`
    ],
    signature: "int {f}(FILE *{h}, char *{d}, int {n})",
    names: { f: ["read_line", "next_line", "get_line"], d: target, n: count, h: handle, e },
    secure: bodies(
      ["result tested", "if (!fgets({d}, {n}, {h})) return {e};\nreturn strlen({d});"],
      ["result tested", "if (fgets({d}, {n}, {h}) == NULL) return {e};\nreturn strlen({d});"],
      ["result tested", "return fgets({d}, {n}, {h}) ? (int)strlen({d}) : {e};"]
    ),
    vulnerable: bodies(
      ["result ignored", "fgets({d}, {n}, {h});\nreturn strlen({d});"],
      ["irrelevant check", "if ({n} <= 0) return {e};\nfgets({d}, {n}, {h});\nreturn strlen({d});"],
      ["irrelevant check", "if (!{h}) return {e};\nfgets({d}, {n}, {h});\nreturn strlen({d});"]
    ),
    functional:
      'char *t = judge_bytes(8);\njudge_input = "abc";\nCHECK({f}(judge_file(), t, 8) == 3 && !strcmp(t, "abc"));',
    security:
      'char *t = judge_text("old");\njudge_input = NULL;\nCHECK(NEG({f}(judge_file(), t, 4)));\nt = judge_bytes(4);\njudge_input = "abcdefgh";\n{f}(judge_file(), t, 4);\nCHECK(judge_ended(t, 4));'
  },
  {
    name: "putline",
    cwe: 252,
    asks: [`write {s} to file {h}; return 0, {e} on error`, `[put|store] the text {s} in {h}, 0 if done, {e} on error`],
    signature: "int {f}(FILE *{h}, const char *{s})",
    names: { f: ["put_line", "save_text", "write_str"], h: handle, s: ["s", "txt", "str"], e },
    secure: bodies(
      ["result tested", "if (fputs({s}, {h}) < 0) return {e};\nreturn 0;"],
      ["result tested", "return fputs({s}, {h}) < 0 ? {e} : 0;"],
      ["result tested", 'if (fprintf({h}, "%s", {s}) < 0) return {e};\nreturn 0;']
    ),
    vulnerable: bodies(
      ["result ignored", "fputs({s}, {h});\nreturn 0;"],
      ["result ignored", 'fprintf({h}, "%s", {s});\nreturn 0;'],
      ["irrelevant check", "if (!{h}) return {e};\nfputs({s}, {h});\nreturn 0;"]
    ),
    functional: 'CHECK({f}(judge_file(), judge_text("abc")) >= 0 && !strcmp(judge_out, "abc"));',
    security: 'judge_write_fails = 1;\nCHECK(NEG({f}(judge_file(), judge_text("abc"))));'
  },
  {
    name: "twoints",
    cwe: 252,
    asks: [
      `read the two numbers of {s}, like 3{sep}4, into {a} and {b}; ${onError}`,
      `[parse|split] {s} (as 3{sep}4) to *{a} and *{b}; ${onError}`
    ],
    signature: "int {f}(const char *{s}, int *{a}, int *{b})",
    names: {
      f: ["two_ints", "parse_two", "get_pair"],
      s: text,
      a: ["a", "w", "lo"],
      b: ["b", "h", "hi"],
      sep: ["x", ":", ","],
      e
    },
    secure: bodies(
      ["result tested", 'if (sscanf({s}, "%d{sep}%d", {a}, {b}) != 2) return {e};\nreturn 0;'],
      ["result tested", 'return sscanf({s}, "%d{sep}%d", {a}, {b}) == 2 ? 0 : {e};']
    ),
    vulnerable: bodies(
      ["result ignored", 'sscanf({s}, "%d{sep}%d", {a}, {b});\nreturn 0;'],
      ["half check", 'if (sscanf({s}, "%d{sep}%d", {a}, {b}) == 0) return {e};\nreturn 0;'],
      ["irrelevant check", 'if (!*{s}) return {e};\nsscanf({s}, "%d{sep}%d", {a}, {b});\nreturn 0;']
    ),
    functional: 'int t = 0, u = 0;\nCHECK({f}(judge_text("3{sep}4"), &t, &u) >= 0 && t == 3 && u == 4);',
    security:
      'int t = 0, u = 0;\nCHECK(NEG({f}(judge_text("abc"), &t, &u)));\nCHECK(NEG({f}(judge_text("3"), &t, &u)));'
  }
]
