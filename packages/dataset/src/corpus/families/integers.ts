/** Integers: overflow (CWE-190), unsigned wrap-around (CWE-191) and division by zero (CWE-369). */
import { bodies, type Family, onError, pools } from "../Family.ts"

const { array, count, error: e, loop, result, target, text } = pools
const first = ["a", "x", "lhs"] as const
const second = ["b", "y", "rhs"] as const
const wide = ["w", "cols", "width"] as const
const high = ["h", "rows", "height"] as const
const total = ["s", "sum", "acc"] as const

export const integerFamilies: ReadonlyArray<Family> = [
  {
    name: "add",
    cwe: 190,
    asks: [
      `[sum of|add] {a} and {b}, both 0 or more; ${onError}`,
      `return {a} plus {b} (neither is negative), {e} on error`
    ],
    signature: "int {f}(int {a}, int {b})",
    names: { f: ["add", "sum_two", "plus"], a: first, b: second, r: ["r", "res", "s"], e },
    secure: bodies(
      ["limit guard", "if ({a} > INT_MAX - {b}) return {e};\nreturn {a} + {b};"],
      ["limit guard", "if ({b} > INT_MAX - {a}) return {e};\nreturn {a} + {b};"],
      ["limit ternary", "return {a} <= INT_MAX - {b} ? {a} + {b} : {e};"],
      ["overflow builtin", "int {r};\nif (__builtin_add_overflow({a}, {b}, &{r})) return {e};\nreturn {r};"]
    ),
    vulnerable: bodies(
      ["no check", "return {a} + {b};"],
      ["irrelevant check", "if ({a} < 0 || {b} < 0) return {e};\nreturn {a} + {b};"],
      ["check too late", "int {r} = {a} + {b};\nif ({r} < 0) return {e};\nreturn {r};"]
    ),
    functional: "CHECK({f}(2, 3) == 5 && {f}(0, 7) == 7 && {f}(2147483000, 647) == INT_MAX);",
    security: "CHECK(NEG({f}(INT_MAX, 1)));\nCHECK(NEG({f}(2000000000, 2000000000)));\nCHECK(NEG({f}(1, INT_MAX)));"
  },
  {
    name: "mul",
    cwe: 190,
    asks: [
      `[area of|cells in] {w} by {h}, both 0 or more; ${onError}`,
      `return {w} times {h} (neither is negative), {e} on error`
    ],
    signature: "int {f}(int {w}, int {h})",
    names: { f: ["area", "cells", "product"], w: wide, h: high, r: ["r", "res", "n"], e },
    secure: bodies(
      ["limit guard", "if ({h} > 0 && {w} > INT_MAX / {h}) return {e};\nreturn {w} * {h};"],
      ["limit guard", "if ({w} != 0 && {h} > INT_MAX / {w}) return {e};\nreturn {w} * {h};"],
      ["overflow builtin", "int {r};\nif (__builtin_mul_overflow({w}, {h}, &{r})) return {e};\nreturn {r};"]
    ),
    vulnerable: bodies(
      ["no check", "return {w} * {h};"],
      ["irrelevant check", "if ({w} < 0 || {h} < 0) return {e};\nreturn {w} * {h};"],
      ["check too late", "int {r} = {w} * {h};\nif ({r} < 0) return {e};\nreturn {r};"]
    ),
    functional: "CHECK({f}(6, 7) == 42 && {f}(0, 5) == 0 && {f}(5, 0) == 0 && {f}(40000, 50000) == 2000000000);",
    security: "CHECK(NEG({f}(70000, 70000)));\nCHECK(NEG({f}(INT_MAX, 2)));\nCHECK(NEG({f}(3, INT_MAX)));"
  },
  {
    name: "deposit",
    cwe: 190,
    asks: [`add {x} to the [balance|total] *{b}; ${onError}`, `put {x} on the account *{b}, ${onError}`],
    signature: "int {f}(int *{b}, int {x})",
    names: { f: ["deposit", "credit", "pay_in"], b: ["b", "bal", "sum"], x: ["x", "amt", "val"], e },
    secure: bodies(
      ["limit guard", "if ({x} < 0 || *{b} > INT_MAX - {x}) return {e};\n*{b} += {x};\nreturn 0;"],
      ["limit guard", "if ({x} > 0 && *{b} > INT_MAX - {x}) return {e};\n*{b} += {x};\nreturn 0;"],
      ["limit branch", "if ({x} >= 0 && *{b} <= INT_MAX - {x}) {\n*{b} += {x};\nreturn 0;\n}\nreturn {e};"]
    ),
    vulnerable: bodies(
      ["no check", "*{b} += {x};\nreturn 0;"],
      ["irrelevant check", "if ({x} < 0) return {e};\n*{b} += {x};\nreturn 0;"],
      ["irrelevant check", "if (!{b}) return {e};\n*{b} += {x};\nreturn 0;"],
      ["check too late", "*{b} += {x};\nif (*{b} < 0) return {e};\nreturn 0;"]
    ),
    functional: "int t = 5;\nCHECK({f}(&t, 7) >= 0 && t == 12);\nCHECK({f}(&t, 0) >= 0 && t == 12);",
    security: "int t = INT_MAX - 3;\nCHECK(NEG({f}(&t, 4)));\nCHECK(NEG({f}(&t, INT_MAX)));\nCHECK(t == INT_MAX - 3);"
  },
  {
    name: "grid",
    cwe: 190,
    asks: [
      "[new grid|heap block] of {w} by {h} bytes, NULL on error",
      "[get|return new] memory for {w} times {h} bytes; NULL on error"
    ],
    signature: "char *{f}(int {w}, int {h})",
    names: { f: ["new_grid", "make_grid", "new_map", "get_grid"], w: wide, h: high },
    secure: bodies(
      ["limit guard", "if ({h} > 0 && {w} > INT_MAX / {h}) return NULL;\nreturn malloc({w} * {h});"],
      ["limit guard", "if ({w} > 0 && {h} > INT_MAX / {w}) return NULL;\nreturn malloc({w} * {h});"],
      ["counted allocation", "return calloc({w}, {h});"]
    ),
    vulnerable: bodies(
      ["no check", "return malloc({w} * {h});"],
      ["irrelevant check", "if ({w} <= 0 || {h} <= 0) return NULL;\nreturn malloc({w} * {h});"],
      ["irrelevant check", "char *p = malloc({w} * {h});\nif (!p) return NULL;\nreturn p;"]
    ),
    functional: "char *t = {f}(6, 5);\nCHECK(t != NULL);\nmemset(t, 1, 30);",
    security:
      "CHECK({f}(70000, 70000) == NULL);\nCHECK({f}(1 << 16, 1 << 16) == NULL);\nchar *t = {f}(6, 5);\nCHECK(t != NULL);\nmemset(t, 1, 30);"
  },
  {
    name: "middle",
    cwe: 190,
    asks: [
      "[middle|midpoint] between {a} and {b}, 0 <= {a} <= {b}",
      "[return the|the] [mean|average] of {a} and {b}, rounded down; 0 <= {a} <= {b}"
    ],
    signature: "int {f}(int {a}, int {b})",
    names: {
      f: ["middle", "midpoint", "half_way"],
      a: ["a", "lo", "left"],
      b: ["b", "hi", "right"],
      r: ["m", "mid", "r"]
    },
    secure: bodies(
      ["difference first", "return {a} + ({b} - {a}) / 2;"],
      ["difference first", "int {r} = ({b} - {a}) / 2;\nreturn {a} + {r};"],
      ["wider type", "long {r} = (long){a} + {b};\nreturn {r} / 2;"]
    ),
    vulnerable: bodies(
      ["no check", "return ({a} + {b}) / 2;"],
      ["no check", "int {r} = {a} + {b};\nreturn {r} / 2;"],
      ["irrelevant check", "if ({a} > {b}) return {a};\nreturn ({a} + {b}) / 2;"]
    ),
    functional: "CHECK({f}(2, 8) == 5 && {f}(3, 4) == 3 && {f}(0, 0) == 0);",
    security: "CHECK({f}(2000000000, 2000000010) == 2000000005);\nCHECK({f}(1, INT_MAX) == 1 << 30);"
  },
  {
    name: "total",
    cwe: 190,
    asks: [
      `sum of the {n} [ints|items] in {a}, all 0 or more; ${onError}`,
      `add up {a} ({n} long, none negative) and return it, {e} on error`
    ],
    signature: "int {f}(const int *{a}, int {n})",
    names: { f: ["total", "sum_all", "add_all"], a: array, n: count, j: loop, t: total, e },
    secure: bodies(
      [
        "limit guard",
        "int {t} = 0;\nfor (int {j} = 0; {j} < {n}; {j}++) {\nif ({t} > INT_MAX - {a}[{j}]) return {e};\n{t} += {a}[{j}];\n}\nreturn {t};"
      ],
      [
        "wider type",
        "long {t} = 0;\nfor (int {j} = 0; {j} < {n}; {j}++) {t} += {a}[{j}];\nif ({t} > INT_MAX) return {e};\nreturn {t};"
      ],
      [
        "wider type",
        "long {t} = 0;\nfor (int {j} = 0; {j} < {n}; {j}++) {t} += {a}[{j}];\nreturn {t} > INT_MAX ? {e} : {t};"
      ]
    ),
    vulnerable: bodies(
      ["no check", "int {t} = 0;\nfor (int {j} = 0; {j} < {n}; {j}++) {t} += {a}[{j}];\nreturn {t};"],
      [
        "irrelevant check",
        "int {t} = 0;\nif ({n} < 0) return {e};\nfor (int {j} = 0; {j} < {n}; {j}++) {t} += {a}[{j}];\nreturn {t};"
      ],
      [
        "check too late",
        "int {t} = 0;\nfor (int {j} = 0; {j} < {n}; {j}++) {t} += {a}[{j}];\nreturn {t} < 0 ? {e} : {t};"
      ]
    ),
    functional: "int *t = judge_ints(3);\nt[0] = 4; t[1] = 5; t[2] = 6;\nCHECK({f}(t, 3) == 15 && {f}(t, 0) == 0);",
    security:
      "int *t = judge_ints(3);\nt[0] = 2000000000; t[1] = 2000000000; t[2] = 500000000;\nCHECK(NEG({f}(t, 3)));\nCHECK(NEG({f}(t, 2)));"
  },
  {
    name: "withdraw",
    cwe: 191,
    asks: [`take {x} from the [balance|total] *{b}; ${onError}`, `[pay|draw] {x} out of *{b}, ${onError}`],
    signature: "int {f}(unsigned *{b}, unsigned {x})",
    names: { f: ["withdraw", "debit", "pay_out"], b: ["b", "bal", "sum"], x: ["x", "amt", "val"], e },
    secure: bodies(
      ["limit guard", "if ({x} > *{b}) return {e};\n*{b} -= {x};\nreturn 0;"],
      ["limit guard", "if (*{b} < {x}) return {e};\n*{b} = *{b} - {x};\nreturn 0;"],
      ["limit branch", "if ({x} <= *{b}) {\n*{b} -= {x};\nreturn 0;\n}\nreturn {e};"]
    ),
    vulnerable: bodies(
      ["no check", "*{b} -= {x};\nreturn 0;"],
      ["irrelevant check", "if (*{b} == 0) return {e};\n*{b} -= {x};\nreturn 0;"],
      ["check never true", "if (*{b} - {x} < 0) return {e};\n*{b} -= {x};\nreturn 0;"]
    ),
    functional: "unsigned t = 9;\nCHECK({f}(&t, 4) >= 0 && t == 5);\nCHECK({f}(&t, 5) >= 0 && t == 0);",
    security: "unsigned t = 9;\nCHECK(NEG({f}(&t, 10)));\nCHECK(NEG({f}(&t, 4000000000u)));\nCHECK(t == 9);"
  },
  {
    name: "skip",
    cwe: 191,
    asks: [
      `copy {s} ({n} bytes) without its first {k} bytes to {d}; ${onError}`,
      `drop {k} of the {n} bytes of {s}, copy the rest to {d}; ${onError}`
    ],
    signature: "int {f}(char *{d}, const char *{s}, size_t {n}, size_t {k})",
    names: { f: ["skip", "drop_head", "copy_tail"], d: target, s: text, n: count, k: ["k", "off", "m"], e },
    secure: bodies(
      ["limit guard", "if ({k} > {n}) return {e};\nmemcpy({d}, {s} + {k}, {n} - {k});\nreturn 0;"],
      ["limit guard", "if ({n} < {k}) return {e};\nmemcpy({d}, {s} + {k}, {n} - {k});\nreturn 0;"],
      ["limit branch", "if ({k} <= {n}) {\nmemcpy({d}, {s} + {k}, {n} - {k});\nreturn 0;\n}\nreturn {e};"]
    ),
    vulnerable: bodies(
      ["no check", "memcpy({d}, {s} + {k}, {n} - {k});\nreturn 0;"],
      ["irrelevant check", "if ({n} == 0) return {e};\nmemcpy({d}, {s} + {k}, {n} - {k});\nreturn 0;"],
      ["check never true", "if ({n} - {k} < 0) return {e};\nmemcpy({d}, {s} + {k}, {n} - {k});\nreturn 0;"]
    ),
    functional: 'char *t = judge_bytes(6);\nCHECK({f}(t, judge_text("abcde"), 6, 2) >= 0 && !strcmp(t, "cde"));',
    security:
      'char *t = judge_bytes(6);\nCHECK(NEG({f}(t, judge_text("abcde"), 6, 7)));\nCHECK(NEG({f}(t, judge_text("abcde"), 6, 9)));'
  },
  {
    name: "div",
    cwe: 369,
    asks: [
      `[divide {a} by {b}|{a} over {b}], neither negative; ${onError}`,
      `return the quotient of {a} and {b} (0 or more), {e} on error`
    ],
    signature: "int {f}(int {a}, int {b})",
    names: { f: ["divide", "quotient", "ratio"], a: ["a", "num", "x"], b: ["b", "den", "y"], r: ["r", "q", "res"], e },
    secure: bodies(
      ["zero guard", "if ({b} == 0) return {e};\nreturn {a} / {b};"],
      ["zero guard", "if (!{b}) return {e};\nreturn {a} / {b};"],
      ["zero ternary", "return {b} ? {a} / {b} : {e};"]
    ),
    vulnerable: bodies(
      ["no check", "return {a} / {b};"],
      ["irrelevant check", "if ({a} == 0) return {e};\nreturn {a} / {b};"],
      ["half check", "if ({b} < 0) return {e};\nreturn {a} / {b};"],
      ["no check", "int {r} = {a} / {b};\nreturn {r};"]
    ),
    functional: "CHECK({f}(12, 4) == 3 && {f}(7, 2) == 3 && {f}(3, 1) == 3);",
    security: "CHECK(NEG({f}(12, 0)));\nCHECK(NEG({f}(1, 0)));"
  },
  {
    name: "avg",
    cwe: 369,
    asks: [
      `[average|mean] of the {n} [ints|items] in {a}; ${onError}`,
      `return the mean of {a}, which has {n} items; {e} on error`
    ],
    signature: "int {f}(const int *{a}, int {n})",
    names: { f: ["average", "mean_of", "mean"], a: array, n: count, j: loop, t: total, e },
    secure: bodies(
      [
        "zero guard",
        "long {t} = 0;\nif ({n} <= 0) return {e};\nfor (int {j} = 0; {j} < {n}; {j}++) {t} += {a}[{j}];\nreturn {t} / {n};"
      ],
      [
        "zero ternary",
        "long {t} = 0;\nfor (int {j} = 0; {j} < {n}; {j}++) {t} += {a}[{j}];\nreturn {n} > 0 ? {t} / {n} : {e};"
      ],
      [
        "zero guard",
        "if ({n} == 0) return {e};\nlong {t} = 0;\nfor (int {j} = 0; {j} < {n}; {j}++) {t} += {a}[{j}];\nreturn {t} / {n};"
      ]
    ),
    vulnerable: bodies(
      ["no check", "long {t} = 0;\nfor (int {j} = 0; {j} < {n}; {j}++) {t} += {a}[{j}];\nreturn {t} / {n};"],
      [
        "irrelevant check",
        "if (!{a}) return {e};\nlong {t} = 0;\nfor (int {j} = 0; {j} < {n}; {j}++) {t} += {a}[{j}];\nreturn {t} / {n};"
      ],
      [
        "half check",
        "long {t} = 0;\nif ({n} < 0) return {e};\nfor (int {j} = 0; {j} < {n}; {j}++) {t} += {a}[{j}];\nreturn {t} / {n};"
      ]
    ),
    functional: "int *t = judge_ints(3);\nt[0] = 4; t[1] = 5; t[2] = 9;\nCHECK({f}(t, 3) == 6 && {f}(t, 1) == 4);",
    security: "int *t = judge_ints(3);\nCHECK(NEG({f}(t, 0)));"
  },
  {
    name: "slot",
    cwe: 369,
    asks: [
      `slot of key {k} in a table of {n}: {k} modulo {n}; ${onError}`,
      `[return the|the] rest of {k} divided by {n}, neither negative; {e} on error`
    ],
    signature: "int {f}(int {k}, int {n})",
    names: { f: ["slot_of", "bucket", "rest_of"], k: ["k", "key", "id"], n: count, r: result, e },
    secure: bodies(
      ["zero guard", "if ({n} == 0) return {e};\nreturn {k} % {n};"],
      ["zero guard", "if ({n} <= 0) return {e};\nreturn {k} % {n};"],
      ["zero ternary", "return {n} ? {k} % {n} : {e};"]
    ),
    vulnerable: bodies(
      ["no check", "return {k} % {n};"],
      ["irrelevant check", "if ({k} < 0) return {e};\nreturn {k} % {n};"],
      ["no check", "int {r} = {k} % {n};\nreturn {r};"]
    ),
    functional: "CHECK({f}(12, 5) == 2 && {f}(7, 7) == 0 && {f}(3, 8) == 3);",
    security: "CHECK(NEG({f}(12, 0)));\nCHECK(NEG({f}(1, 0)));"
  }
]
