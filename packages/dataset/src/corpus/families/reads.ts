/** Reads outside of an array or a text (CWE-125). */
import { bodies, type Family, onError, pools } from "../Family.ts"

const { array, capacity, count, error: e, index, loop, target, text, value } = pools
const stack = ["s", "st", "stk"] as const

export const readFamilies: ReadonlyArray<Family> = [
  {
    name: "get",
    cwe: 125,
    asks: [
      `item {i} of {a}, which has {n} [items|ints]; ${onError}`,
      `[read|give] the int at index {i} of {a} ({n} long); {e} on error`
    ],
    signature: "int {f}(const int *{a}, int {n}, int {i})",
    names: { f: ["get_item", "item_at", "read_at"], a: array, n: count, i: index, e },
    secure: bodies(
      ["range guard", "if ({i} < 0 || {i} >= {n}) return {e};\nreturn {a}[{i}];"],
      ["range guard", "if ({i} >= {n} || {i} < 0) return {e};\nreturn {a}[{i}];"],
      ["range ternary", "return {i} >= 0 && {i} < {n} ? {a}[{i}] : {e};"]
    ),
    vulnerable: bodies(
      ["no check", "return {a}[{i}];"],
      ["half check", "if ({i} >= {n}) return {e};\nreturn {a}[{i}];"],
      ["irrelevant check", "if (!{a}) return {e};\nreturn {a}[{i}];"],
      ["off by one", "if ({i} < 0 || {i} > {n}) return {e};\nreturn {a}[{i}];"]
    ),
    functional: `int *t = judge_ints(3);
t[0] = 4; t[1] = 5; t[2] = 6;
CHECK({f}(t, 3, 0) == 4 && {f}(t, 3, 1) == 5 && {f}(t, 3, 2) == 6);`,
    security: `int *t = judge_ints(3);
CHECK(NEG({f}(t, 3, 3)));
CHECK(NEG({f}(t, 3, -1)));
CHECK(NEG({f}(t, 3, 5)));`
  },
  {
    name: "pop",
    cwe: 125,
    asks: [
      `pop the top [item|int] of stack {s}; ${onError}`,
      `take the top [item|value] off {s} and return it, {e} on error`
    ],
    signature: "int {f}(stack *{s})",
    names: { f: ["pop", "stack_pop", "pop_item"], s: stack, e },
    secure: bodies(
      ["empty guard", "if ({s}->top <= 0) return {e};\nreturn {s}->data[--{s}->top];"],
      ["empty guard", "if ({s}->top == 0) return {e};\n{s}->top--;\nreturn {s}->data[{s}->top];"],
      ["empty ternary", "return {s}->top > 0 ? {s}->data[--{s}->top] : {e};"]
    ),
    vulnerable: bodies(
      ["no check", "return {s}->data[--{s}->top];"],
      ["off by one", "if ({s}->top < 0) return {e};\nreturn {s}->data[--{s}->top];"],
      ["irrelevant check", "if (!{s}) return {e};\n{s}->top--;\nreturn {s}->data[{s}->top];"]
    ),
    functional: `stack t = { judge_ints(4), 2, 4 };
t.data[0] = 3; t.data[1] = 4;
CHECK({f}(&t) == 4 && t.top == 1);
CHECK({f}(&t) == 3 && t.top == 0);`,
    security: `stack t = { judge_ints(4), 0, 4 };
CHECK(NEG({f}(&t)));
CHECK(t.top == 0);`
  },
  {
    name: "last",
    cwe: 125,
    asks: [`[last|final] character of {s}; ${onError}`, `return the character at the end of {s}, {e} on error`],
    signature: "int {f}(const char *{s})",
    names: { f: ["last_char", "end_char", "final_char"], s: text, n: count, e },
    secure: bodies(
      ["empty guard", "size_t {n} = strlen({s});\nif ({n} == 0) return {e};\nreturn {s}[{n} - 1];"],
      ["empty guard", "if (!*{s}) return {e};\nreturn {s}[strlen({s}) - 1];"],
      ["empty ternary", "size_t {n} = strlen({s});\nreturn {n} > 0 ? {s}[{n} - 1] : {e};"]
    ),
    vulnerable: bodies(
      ["no check", "return {s}[strlen({s}) - 1];"],
      ["no check", "size_t {n} = strlen({s});\nreturn {s}[{n} - 1];"],
      ["irrelevant check", "if (!{s}) return {e};\nreturn {s}[strlen({s}) - 1];"]
    ),
    functional: `CHECK({f}(judge_text("abc")) == 'c');
CHECK({f}(judge_text("z")) == 'z');`,
    security: `CHECK(NEG({f}(judge_text(""))));`
  },
  {
    name: "scan",
    cwe: 125,
    asks: [
      `index of {x} in the {n} [ints|items] of {a}; {e} if [absent|not there]`,
      `find {x} in {a} ({n} long) and return its index, {e} if absent`
    ],
    signature: "int {f}(const int *{a}, int {n}, int {x})",
    names: { f: ["index_of", "scan_for", "where_is"], a: array, n: count, x: value, j: loop, e },
    secure: bodies(
      ["loop bound", "for (int {j} = 0; {j} < {n}; {j}++)\n  if ({a}[{j}] == {x}) return {j};\nreturn {e};"],
      ["loop bound", "int {j} = 0;\nwhile ({j} < {n} && {a}[{j}] != {x}) {j}++;\nreturn {j} < {n} ? {j} : {e};"]
    ),
    vulnerable: bodies(
      ["no check", "int {j} = 0;\nwhile ({a}[{j}] != {x}) {j}++;\nreturn {j};"],
      ["off by one", "for (int {j} = 0; {j} <= {n}; {j}++)\n  if ({a}[{j}] == {x}) return {j};\nreturn {e};"],
      ["check too late", "int {j} = 0;\nwhile ({a}[{j}] != {x} && {j} < {n}) {j}++;\nreturn {j} < {n} ? {j} : {e};"]
    ),
    functional: `int *t = judge_ints(4);
t[1] = 5; t[2] = 6; t[3] = 5;
CHECK({f}(t, 4, 5) == 1 && {f}(t, 4, 6) == 2 && {f}(t, 4, 0) == 0);`,
    security: `int *t = judge_ints(4);
CHECK(NEG({f}(t, 4, 77)));`
  },
  {
    name: "largest",
    cwe: 125,
    asks: [
      `largest of the {n} [ints|items] in {a}; ${onError}`,
      `return the [greatest|largest] item of {a} ({n} long), {e} on error`
    ],
    signature: "int {f}(const int *{a}, int {n})",
    names: { f: ["largest", "max_of", "top_item"], a: array, n: count, j: loop, m: ["m", "best", "hi"], e },
    secure: bodies(
      [
        "empty guard",
        "if ({n} <= 0) return {e};\nint {m} = {a}[0];\nfor (int {j} = 1; {j} < {n}; {j}++)\n  if ({a}[{j}] > {m}) {m} = {a}[{j}];\nreturn {m};"
      ],
      [
        "loop bound",
        "int {m} = {e};\nfor (int {j} = 0; {j} < {n}; {j}++)\n  if ({a}[{j}] > {m}) {m} = {a}[{j}];\nreturn {m};"
      ]
    ),
    vulnerable: bodies(
      [
        "no check",
        "int {m} = {a}[0];\nfor (int {j} = 1; {j} < {n}; {j}++)\n  if ({a}[{j}] > {m}) {m} = {a}[{j}];\nreturn {m};"
      ],
      [
        "irrelevant check",
        "if (!{a}) return {e};\nint {m} = {a}[0];\nfor (int {j} = 1; {j} < {n}; {j}++)\n  if ({a}[{j}] > {m}) {m} = {a}[{j}];\nreturn {m};"
      ],
      [
        "half check",
        "if ({n} < 0) return {e};\nint {m} = {a}[0];\nfor (int {j} = 1; {j} < {n}; {j}++)\n  if ({a}[{j}] > {m}) {m} = {a}[{j}];\nreturn {m};"
      ]
    ),
    functional: `int *t = judge_ints(4);
t[0] = 3; t[1] = 9; t[2] = 4; t[3] = 1;
CHECK({f}(t, 4) == 9 && {f}(t, 1) == 3);`,
    security: `int *t = judge_bytes(1);
CHECK(NEG({f}(t, 0)));
int *u = judge_ints(2);
u[0] = 2; u[1] = 1;
CHECK({f}(u, 2) == 2);`
  },
  {
    name: "take",
    cwe: 195,
    asks: [
      `copy {n} bytes of {s} to {d}, which has room for {cap}; ${onError}`,
      `copy the first {n} bytes of {s} into {d} ({cap} bytes); ${onError}`
    ],
    signature: "int {f}(char *{d}, int {cap}, const char *{s}, int {n})",
    names: { f: ["take", "copy_n", "take_bytes"], d: target, cap: capacity, s: text, n: count, e },
    secure: bodies(
      ["sign and length guard", "if ({n} < 0 || {n} > {cap}) return {e};\nmemcpy({d}, {s}, {n});\nreturn 0;"],
      [
        "sign and length guard",
        "if ({n} < 0) return {e};\nif ({n} > {cap}) return {e};\nmemcpy({d}, {s}, {n});\nreturn 0;"
      ],
      ["sign and length branch", "if ({n} >= 0 && {n} <= {cap}) {\nmemcpy({d}, {s}, {n});\nreturn 0;\n}\nreturn {e};"]
    ),
    vulnerable: bodies(
      ["no check", "memcpy({d}, {s}, {n});\nreturn 0;"],
      ["half check", "if ({n} > {cap}) return {e};\nmemcpy({d}, {s}, {n});\nreturn 0;"],
      ["half check", "if ({n} < 0) return {e};\nmemcpy({d}, {s}, {n});\nreturn 0;"],
      ["irrelevant check", "if (!{d} || !{s}) return {e};\nmemcpy({d}, {s}, {n});\nreturn 0;"]
    ),
    functional: `char *t = judge_bytes(4);
CHECK({f}(t, 4, judge_text("abcdef"), 3) >= 0 && t[0] == 'a' && t[2] == 'c' && t[3] == 'x');
CHECK({f}(t, 4, judge_text("efghij"), 4) >= 0 && t[3] == 'h');`,
    security: `char *t = judge_bytes(4);
char *u = judge_text("abcdefgh");
CHECK(NEG({f}(t, 4, u, 5)));
CHECK(NEG({f}(t, 4, u, 8)));
CHECK(NEG({f}(t, 4, u, -1)));`
  }
]
