/** Pointers that may be null (CWE-476) and variables never set (CWE-457). */
import { bodies, type Family, pools } from "../Family.ts"

const { array, count, error: e, loop, pointer, result, text, value } = pools

export const pointerFamilies: ReadonlyArray<Family> = [
  {
    name: "dup",
    cwe: 476,
    asks: [
      "[heap copy|new copy] of [|the string ]{s}, NULL on error",
      "copy {s} to [new memory|the heap|a new block] and return it, NULL on error"
    ],
    signature: "char *{f}(const char *{s})",
    names: { f: ["dup_text", "new_copy", "clone_str", "copy_of"], s: text, p: pointer },
    secure: bodies(
      ["null guard", "char *{p} = malloc(strlen({s}) + 1);\nif (!{p}) return NULL;\nstrcpy({p}, {s});\nreturn {p};"],
      [
        "null guard",
        "char *{p} = malloc(strlen({s}) + 1);\nif ({p} == NULL) return NULL;\nstrcpy({p}, {s});\nreturn {p};"
      ],
      ["null branch", "char *{p} = malloc(strlen({s}) + 1);\nif ({p}) strcpy({p}, {s});\nreturn {p};"],
      ["library copy", "return strdup({s});"]
    ),
    vulnerable: bodies(
      ["no check", "char *{p} = malloc(strlen({s}) + 1);\nstrcpy({p}, {s});\nreturn {p};"],
      [
        "irrelevant check",
        "if (!{s}) return NULL;\nchar *{p} = malloc(strlen({s}) + 1);\nstrcpy({p}, {s});\nreturn {p};"
      ],
      ["check too late", "char *{p} = malloc(strlen({s}) + 1);\nstrcpy({p}, {s});\nif (!{p}) return NULL;\nreturn {p};"]
    ),
    functional: 'char *t = {f}(judge_text("abc"));\nCHECK(t && !strcmp(t, "abc"));',
    security:
      'FAIL(1);\nCHECK({f}(judge_text("abc")) == NULL);\nFAIL(0);\nchar *t = {f}(judge_text("abcdefg"));\nCHECK(t && !strcmp(t, "abcdefg"));'
  },
  {
    name: "filled",
    cwe: 476,
    asks: [
      "new array of {n} ints[ that are|,] all {x}, NULL on error",
      "return {n} ints [on the heap|in new memory], each {x}; NULL on error"
    ],
    signature: "int *{f}(int {n}, int {x})",
    names: { f: ["filled", "new_array", "all_same", "fill_new"], n: count, x: value, p: pointer, j: loop },
    secure: bodies(
      [
        "null guard",
        "int *{p} = malloc({n} * sizeof(int));\nif (!{p}) return NULL;\nfor (int {j} = 0; {j} < {n}; {j}++) {p}[{j}] = {x};\nreturn {p};"
      ],
      [
        "null guard",
        "int *{p} = calloc({n}, sizeof(int));\nif ({p} == NULL) return NULL;\nfor (int {j} = 0; {j} < {n}; {j}++) {p}[{j}] = {x};\nreturn {p};"
      ],
      [
        "null loop bound",
        "int *{p} = malloc({n} * sizeof(int));\nfor (int {j} = 0; {p} && {j} < {n}; {j}++) {p}[{j}] = {x};\nreturn {p};"
      ]
    ),
    vulnerable: bodies(
      [
        "no check",
        "int *{p} = malloc({n} * sizeof(int));\nfor (int {j} = 0; {j} < {n}; {j}++) {p}[{j}] = {x};\nreturn {p};"
      ],
      [
        "no check",
        "int *{p} = calloc({n}, sizeof(int));\nfor (int {j} = 0; {j} < {n}; {j}++) {p}[{j}] = {x};\nreturn {p};"
      ],
      [
        "irrelevant check",
        "if ({n} <= 0) return NULL;\nint *{p} = malloc({n} * sizeof(int));\nfor (int {j} = 0; {j} < {n}; {j}++) {p}[{j}] = {x};\nreturn {p};"
      ]
    ),
    functional: "int *t = {f}(3, 7);\nCHECK(t && t[0] == 7 && t[1] == 7 && t[2] == 7);",
    security: "FAIL(1);\nCHECK({f}(3, 7) == NULL);\nFAIL(0);\nint *t = {f}(5, 6);\nCHECK(t && t[4] == 6);"
  },
  {
    name: "length",
    cwe: 476,
    asks: ["length of the [string|text] {s}, {e} if there is none", "return how long {s} is, {e} without a string"],
    signature: "int {f}(const char *{s})",
    names: { f: ["length", "text_len", "str_size"], s: text, n: count, e },
    secure: bodies(
      ["null guard", "if (!{s}) return {e};\nreturn strlen({s});"],
      ["null guard", "if ({s} == NULL) return {e};\nreturn strlen({s});"],
      ["null ternary", "return {s} ? (int)strlen({s}) : {e};"]
    ),
    vulnerable: bodies(
      ["no check", "return strlen({s});"],
      ["irrelevant check", "if (!*{s}) return 0;\nreturn strlen({s});"],
      ["no check", "int {n} = 0;\nwhile ({s}[{n}]) {n}++;\nreturn {n};"]
    ),
    functional: 'CHECK({f}(judge_text("abc")) == 3 && {f}(judge_text("")) == 0);',
    security: "CHECK(NEG({f}(NULL)));"
  },
  {
    name: "field",
    cwe: 476,
    asks: [
      "value of node {p}, {e} if [there is none|it is missing]",
      "[return|give] the value in {p}, {e} without a node"
    ],
    signature: "int {f}(const node *{p})",
    names: { f: ["value_of", "node_val", "get_value"], p: ["p", "nd", "it"], v: ["v", "r", "res"], e },
    secure: bodies(
      ["null guard", "if (!{p}) return {e};\nreturn {p}->value;"],
      ["null guard", "if ({p} == NULL) return {e};\nreturn {p}->value;"],
      ["null ternary", "return {p} ? {p}->value : {e};"]
    ),
    vulnerable: bodies(
      ["no check", "return {p}->value;"],
      ["check too late", "int {v} = {p}->value;\nif (!{p}) return {e};\nreturn {v};"],
      ["irrelevant check", "if ({p}->value < 0) return {e};\nreturn {p}->value;"]
    ),
    functional: "node t = { 7, NULL };\nCHECK({f}(&t) == 7);",
    security: "CHECK(NEG({f}(NULL)));"
  },
  {
    name: "next",
    cwe: 476,
    asks: [
      "value of the node after {p}, {e} if [there is none|it is missing]",
      "return what the node [behind|after] {p} holds, {e} if there is none"
    ],
    signature: "int {f}(const node *{p})",
    names: { f: ["next_val", "value_after", "peek_next"], p: ["p", "nd", "it"], e },
    secure: bodies(
      ["null guard", "if (!{p} || !{p}->next) return {e};\nreturn {p}->next->value;"],
      ["null guard", "if (!{p}) return {e};\nif (!{p}->next) return {e};\nreturn {p}->next->value;"],
      ["null ternary", "return {p} && {p}->next ? {p}->next->value : {e};"]
    ),
    vulnerable: bodies(
      ["no check", "return {p}->next->value;"],
      ["half check", "if (!{p}) return {e};\nreturn {p}->next->value;"],
      ["half check", "if (!{p}->next) return {e};\nreturn {p}->next->value;"]
    ),
    functional: "node u = { 8, NULL };\nnode t = { 7, &u };\nCHECK({f}(&t) == 8);",
    security: "node t = { 7, NULL };\nCHECK(NEG({f}(&t)));\nCHECK(NEG({f}(NULL)));"
  },
  {
    name: "after",
    cwe: 476,
    asks: [
      "character after the first {c} in {s}; {e} without {c}",
      "find {c} in {s} and return what follows it, {e} if absent"
    ],
    signature: "int {f}(const char *{s}, char {c})",
    names: { f: ["after", "char_after", "follows"], s: text, c: ["c", "ch", "sep"], p: pointer, e },
    secure: bodies(
      ["null guard", "const char *{p} = strchr({s}, {c});\nif (!{p}) return {e};\nreturn {p}[1];"],
      ["null guard", "const char *{p} = strchr({s}, {c});\nif ({p} == NULL) return {e};\nreturn {p}[1];"],
      ["null ternary", "const char *{p} = strchr({s}, {c});\nreturn {p} ? {p}[1] : {e};"]
    ),
    vulnerable: bodies(
      ["no check", "return strchr({s}, {c})[1];"],
      ["no check", "const char *{p} = strchr({s}, {c});\nreturn {p}[1];"],
      ["irrelevant check", "if (!*{s}) return {e};\nconst char *{p} = strchr({s}, {c});\nreturn {p}[1];"]
    ),
    functional: "CHECK({f}(judge_text(\"k=v\"), '=') == 'v' && {f}(judge_text(\"a:b:c\"), ':') == 'b');",
    security: "CHECK(NEG({f}(judge_text(\"abc\"), '=')));"
  },
  {
    name: "first",
    cwe: 476,
    asks: [
      "first byte of the data of {b}, {e} if [there is none|it has none]",
      "[return|give] the byte that the data of {b} starts with, {e} without data"
    ],
    signature: "int {f}(const buf *{b})",
    names: { f: ["first", "first_byte", "head_byte"], b: ["b", "bf", "in"], e },
    secure: bodies(
      ["null guard", "if (!{b} || !{b}->data) return {e};\nreturn {b}->data[0];"],
      ["null guard", "if ({b} == NULL || {b}->data == NULL) return {e};\nreturn {b}->data[0];"],
      ["null ternary", "return {b} && {b}->data ? {b}->data[0] : {e};"]
    ),
    vulnerable: bodies(
      ["no check", "return {b}->data[0];"],
      ["half check", "if (!{b}) return {e};\nreturn {b}->data[0];"],
      ["half check", "if ({b} == NULL) return {e};\nreturn *{b}->data;"]
    ),
    functional: "buf t = { judge_text(\"kv\"), 2 };\nCHECK({f}(&t) == 'k');",
    security: "buf t = { NULL, 0 };\nCHECK(NEG({f}(&t)));"
  },
  {
    name: "findlast",
    cwe: 457,
    asks: [
      `last index of {x} in the {n} [ints|items] of {a}; {e} if absent`,
      "find the last {x} in {a} ({n} long), return its index or {e}"
    ],
    signature: "int {f}(const int *{a}, int {n}, int {x})",
    names: {
      f: ["last_index", "find_last", "rfind"],
      a: array,
      n: count,
      x: value,
      r: ["r", "res", "hit"],
      j: loop,
      e
    },
    secure: bodies(
      [
        "set at start",
        "int {r} = {e};\nfor (int {j} = 0; {j} < {n}; {j}++)\n  if ({a}[{j}] == {x}) {r} = {j};\nreturn {r};"
      ],
      ["no variable", "for (int {j} = {n} - 1; {j} >= 0; {j}--)\n  if ({a}[{j}] == {x}) return {j};\nreturn {e};"]
    ),
    vulnerable: bodies(
      ["never set", "int {r};\nfor (int {j} = 0; {j} < {n}; {j}++)\n  if ({a}[{j}] == {x}) {r} = {j};\nreturn {r};"],
      [
        "irrelevant check",
        "int {r};\nif ({n} <= 0) return {e};\nfor (int {j} = 0; {j} < {n}; {j}++)\n  if ({a}[{j}] == {x}) {r} = {j};\nreturn {r};"
      ]
    ),
    functional:
      "int *t = judge_ints(4);\nt[1] = 5; t[3] = 5; t[2] = 6;\nCHECK({f}(t, 4, 5) == 3 && {f}(t, 4, 6) == 2);",
    security: "int *t = judge_ints(4);\nCHECK(NEG({f}(t, 4, 77)));"
  },
  {
    name: "grade",
    cwe: 457,
    asks: [
      "{hi} if {x} is over {t}, 0 if under {t}, {e} otherwise",
      "return {hi} for {x} above {t}, 0 for {x} below {t}, else {e}"
    ],
    signature: "int {f}(int {x})",
    names: {
      f: ["grade", "rank_of", "level"],
      x: ["x", "val", "v", "pts"],
      t: ["5", "10", "50", "60"],
      hi: ["1", "2", "7"],
      r: result,
      e
    },
    secure: bodies(
      ["set at start", "int {r} = {e};\nif ({x} > {t}) {r} = {hi};\nif ({x} < {t}) {r} = 0;\nreturn {r};"],
      ["last branch", "if ({x} > {t}) return {hi};\nif ({x} < {t}) return 0;\nreturn {e};"],
      [
        "last branch",
        "int {r};\nif ({x} > {t}) {r} = {hi};\nelse if ({x} < {t}) {r} = 0;\nelse {r} = {e};\nreturn {r};"
      ]
    ),
    vulnerable: bodies(
      ["never set", "int {r};\nif ({x} > {t}) {r} = {hi};\nif ({x} < {t}) {r} = 0;\nreturn {r};"],
      ["never set", "int {r};\nif ({x} > {t}) {r} = {hi};\nelse if ({x} < {t}) {r} = 0;\nreturn {r};"]
    ),
    functional: "CHECK({f}({t} + 1) == {hi} && {f}({t} + 40) == {hi} && {f}({t} - 1) == 0);",
    security: "CHECK(NEG({f}({t})));"
  },
  {
    name: "answer",
    cwe: 457,
    asks: [
      "1 if {c} is '{yes}', 0 if it is '{no}', {e} otherwise",
      "turn '{yes}' into 1 and '{no}' into 0; {e} for any other {c}"
    ],
    signature: "int {f}(char {c})",
    names: {
      f: ["answer", "yes_no", "flag_of"],
      c: ["c", "ch", "key"],
      yes: ["y", "t", "+"],
      no: ["n", "f", "-"],
      r: result,
      e
    },
    secure: bodies(
      ["set at start", "int {r} = {e};\nif ({c} == '{yes}') {r} = 1;\nif ({c} == '{no}') {r} = 0;\nreturn {r};"],
      ["default case", "switch ({c}) {\ncase '{yes}': return 1;\ncase '{no}': return 0;\ndefault: return {e};\n}"],
      ["last branch", "if ({c} == '{yes}') return 1;\nif ({c} == '{no}') return 0;\nreturn {e};"]
    ),
    vulnerable: bodies(
      ["never set", "int {r};\nif ({c} == '{yes}') {r} = 1;\nif ({c} == '{no}') {r} = 0;\nreturn {r};"],
      [
        "never set",
        "int {r};\nswitch ({c}) {\ncase '{yes}': {r} = 1; break;\ncase '{no}': {r} = 0; break;\n}\nreturn {r};"
      ]
    ),
    functional: "CHECK({f}('{yes}') == 1 && {f}('{no}') == 0);",
    security: "CHECK(NEG({f}('?')));\nCHECK(NEG({f}(0)));"
  }
]
