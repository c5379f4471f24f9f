/** Array bounds: writes (CWE-787) and reads (CWE-125) beside a block, and signed lengths (CWE-195). */
import { bodies, type Family, onError, pools } from "../Family.ts"

const { array, capacity, count, error: e, index, loop, target, text, value } = pools
const stack = ["s", "st", "stk"] as const

export const boundsFamilies: ReadonlyArray<Family> = [
  {
    name: "set",
    cwe: 787,
    asks: [
      `[store|put|write] {x} in {a} at index {i}, {n} [items|ints]; ${onError}`,
      `set item {i} of {a} ({n} [items|long]) to {x}, ${onError}`
    ],
    signature: "int {f}(int *{a}, int {n}, int {i}, int {x})",
    names: { f: ["set_item", "put_at", "store_at"], a: array, n: count, i: index, x: value, e },
    secure: bodies(
      ["range guard", "if ({i} < 0 || {i} >= {n}) return {e};\n{a}[{i}] = {x};\nreturn 0;"],
      ["range guard", "if ({i} >= {n} || {i} < 0) return {e};\n{a}[{i}] = {x};\nreturn 0;"],
      ["range branch", "if ({i} >= 0 && {i} < {n}) {\n{a}[{i}] = {x};\nreturn 0;\n}\nreturn {e};"]
    ),
    vulnerable: bodies(
      ["no check", "{a}[{i}] = {x};\nreturn 0;"],
      ["half check", "if ({i} >= {n}) return {e};\n{a}[{i}] = {x};\nreturn 0;"],
      ["irrelevant check", "if (!{a}) return {e};\n{a}[{i}] = {x};\nreturn 0;"],
      ["off by one", "if ({i} < 0 || {i} > {n}) return {e};\n{a}[{i}] = {x};\nreturn 0;"]
    ),
    functional: `int *t = judge_ints(4);
CHECK({f}(t, 4, 2, 7) >= 0 && t[2] == 7);
CHECK({f}(t, 4, 0, 5) >= 0 && t[0] == 5);
CHECK({f}(t, 4, 3, 6) >= 0 && t[3] == 6 && t[1] == 0);`,
    security: `int *t = judge_ints(4);
CHECK(NEG({f}(t, 4, 4, 1)));
CHECK(NEG({f}(t, 4, -1, 1)));
CHECK(NEG({f}(t, 4, 6, 1)));`
  },
  {
    name: "inc",
    cwe: 787,
    asks: [
      `add one to counter {i} of {a}, {n} counters; ${onError}`,
      `[count up|raise] item {i} of the {n} [ints|items] in {a}; ${onError}`
    ],
    signature: "int {f}(int *{a}, int {n}, int {i})",
    names: { f: ["inc_at", "count_up", "bump"], a: ["a", "hits", "hist", "cnt"], n: count, i: index, e },
    secure: bodies(
      ["range guard", "if ({i} < 0 || {i} >= {n}) return {e};\n{a}[{i}]++;\nreturn 0;"],
      ["range guard", "if ({i} >= {n} || {i} < 0) return {e};\n{a}[{i}] += 1;\nreturn 0;"],
      ["range branch", "if ({i} >= 0 && {i} < {n}) {\n{a}[{i}]++;\nreturn 0;\n}\nreturn {e};"]
    ),
    vulnerable: bodies(
      ["no check", "{a}[{i}]++;\nreturn 0;"],
      ["half check", "if ({i} >= {n}) return {e};\n{a}[{i}]++;\nreturn 0;"],
      ["half check", "if ({i} < 0) return {e};\n{a}[{i}] += 1;\nreturn 0;"],
      ["irrelevant check", "if ({n} <= 0) return {e};\n{a}[{i}]++;\nreturn 0;"]
    ),
    functional: `int *t = judge_ints(3);
CHECK({f}(t, 3, 1) >= 0 && t[1] == 1);
CHECK({f}(t, 3, 1) >= 0 && t[1] == 2);
CHECK({f}(t, 3, 0) >= 0 && t[0] == 1 && t[2] == 0);`,
    security: `int *t = judge_ints(3);
CHECK(NEG({f}(t, 3, 3)));
CHECK(NEG({f}(t, 3, -1)));`
  },
  {
    name: "copyints",
    cwe: 787,
    asks: [
      `copy {n} ints from {s} to {d}, which holds {cap}; ${onError}, else {n}`,
      `copy the {n} ints of {s} into {d} (room for {cap}), give {n} back, ${onError}`
    ],
    signature: "int {f}(int *{d}, int {cap}, const int *{s}, int {n})",
    names: {
      f: ["copy_ints", "copy_all", "move_ints"],
      d: target,
      cap: capacity,
      s: ["s", "src", "from"],
      n: count,
      j: loop,
      e
    },
    secure: bodies(
      [
        "length guard",
        "if ({n} > {cap}) return {e};\nfor (int {j} = 0; {j} < {n}; {j}++) {d}[{j}] = {s}[{j}];\nreturn {n};"
      ],
      [
        "length guard",
        "if ({n} < 0 || {n} > {cap}) return {e};\nfor (int {j} = 0; {j} < {n}; {j}++) {d}[{j}] = {s}[{j}];\nreturn {n};"
      ],
      ["length guard", "if ({n} < 0 || {n} > {cap}) return {e};\nmemcpy({d}, {s}, {n} * sizeof(int));\nreturn {n};"]
    ),
    vulnerable: bodies(
      ["no check", "for (int {j} = 0; {j} < {n}; {j}++) {d}[{j}] = {s}[{j}];\nreturn {n};"],
      ["no check", "memcpy({d}, {s}, {n} * sizeof(int));\nreturn {n};"],
      [
        "irrelevant check",
        "if ({cap} <= 0) return {e};\nfor (int {j} = 0; {j} < {n}; {j}++) {d}[{j}] = {s}[{j}];\nreturn {n};"
      ],
      ["half check", "if ({n} < 0) return {e};\nmemcpy({d}, {s}, {n} * sizeof(int));\nreturn {n};"]
    ),
    functional: `int *t = judge_ints(4), *u = judge_ints(4);
u[0] = 3; u[1] = 4; u[2] = 5; u[3] = 6;
CHECK({f}(t, 4, u, 3) == 3 && t[0] == 3 && t[2] == 5 && t[3] == 0);
CHECK({f}(t, 4, u, 4) == 4 && t[3] == 6);`,
    security: `int *t = judge_ints(4), *u = judge_ints(9);
CHECK(NEG({f}(t, 4, u, 5)));
CHECK(NEG({f}(t, 4, u, 9)));
CHECK(NEG({f}(t, 4, u, -1)));`
  },
  {
    name: "push",
    cwe: 787,
    asks: [`push {x} on [stack {s}|the stack {s}]; ${onError}`, `put {x} on top of [stack {s}|{s}]; ${onError}`],
    signature: "int {f}(stack *{s}, int {x})",
    names: { f: ["push", "stack_push", "push_item"], s: stack, x: value, e },
    secure: bodies(
      ["capacity guard", "if ({s}->top >= {s}->cap) return {e};\n{s}->data[{s}->top++] = {x};\nreturn 0;"],
      ["capacity guard", "if ({s}->top == {s}->cap) return {e};\n{s}->data[{s}->top] = {x};\n{s}->top++;\nreturn 0;"],
      ["capacity branch", "if ({s}->top < {s}->cap) {\n{s}->data[{s}->top++] = {x};\nreturn 0;\n}\nreturn {e};"]
    ),
    vulnerable: bodies(
      ["no check", "{s}->data[{s}->top++] = {x};\nreturn 0;"],
      ["off by one", "if ({s}->top > {s}->cap) return {e};\n{s}->data[{s}->top++] = {x};\nreturn 0;"],
      ["irrelevant check", "if (!{s}) return {e};\n{s}->data[{s}->top++] = {x};\nreturn 0;"],
      ["irrelevant check", "if ({s}->top < 0) return {e};\n{s}->data[{s}->top] = {x};\n{s}->top++;\nreturn 0;"]
    ),
    functional: `stack t = { judge_ints(2), 0, 2 };
CHECK({f}(&t, 7) >= 0 && t.top == 1 && t.data[0] == 7);
CHECK({f}(&t, 8) >= 0 && t.top == 2 && t.data[1] == 8);`,
    security: `stack t = { judge_ints(2), 2, 2 };
CHECK(NEG({f}(&t, 9)));
CHECK(t.top == 2);`
  },
  {
    name: "append",
    cwe: 787,
    asks: [
      `append {x} to {a}, which holds *{n} of {cap} items; ${onError}`,
      `add {x} at the end of {a} (*{n} used, {cap} in all); ${onError}`
    ],
    signature: "int {f}(int *{a}, int *{n}, int {cap}, int {x})",
    names: { f: ["append", "add_item", "list_add"], a: array, n: ["n", "len", "used"], cap: capacity, x: value, e },
    secure: bodies(
      ["capacity guard", "if (*{n} >= {cap}) return {e};\n{a}[(*{n})++] = {x};\nreturn 0;"],
      ["capacity guard", "if (*{n} >= {cap}) return {e};\n{a}[*{n}] = {x};\n*{n} += 1;\nreturn 0;"],
      ["capacity branch", "if (*{n} < {cap}) {\n{a}[(*{n})++] = {x};\nreturn 0;\n}\nreturn {e};"]
    ),
    vulnerable: bodies(
      ["no check", "{a}[(*{n})++] = {x};\nreturn 0;"],
      ["off by one", "if (*{n} > {cap}) return {e};\n{a}[(*{n})++] = {x};\nreturn 0;"],
      ["irrelevant check", "if (*{n} < 0) return {e};\n{a}[*{n}] = {x};\n*{n} += 1;\nreturn 0;"]
    ),
    functional: `int *t = judge_ints(2), c = 0;
CHECK({f}(t, &c, 2, 7) >= 0 && c == 1 && t[0] == 7);
CHECK({f}(t, &c, 2, 8) >= 0 && c == 2 && t[1] == 8);`,
    security: `int *t = judge_ints(2), c = 2;
CHECK(NEG({f}(t, &c, 2, 9)));
CHECK(c == 2);`
  },
  {
    name: "tally",
    cwe: 787,
    asks: [
      "count the letters a to z of {s} in the 26 [counters|ints] of {h}",
      "[tally|count] how often each letter a to z is in {s}; {h} has 26 ints"
    ],
    signature: "void {f}(int *{h}, const char *{s})",
    names: { f: ["tally", "count_az", "letters"], h: ["h", "hist", "cnt"], s: text },
    secure: bodies(
      ["range branch", "for (; *{s}; {s}++)\n  if (*{s} >= 'a' && *{s} <= 'z') {h}[*{s} - 'a']++;"],
      ["range guard", "for (; *{s}; {s}++) {\nif (*{s} < 'a' || *{s} > 'z') continue;\n{h}[*{s} - 'a']++;\n}"]
    ),
    vulnerable: bodies(
      ["no check", "for (; *{s}; {s}++)\n  {h}[*{s} - 'a']++;"],
      ["half check", "for (; *{s}; {s}++)\n  if (*{s} >= 'a') {h}[*{s} - 'a']++;"],
      ["irrelevant check", "for (; *{s}; {s}++) {\nif (*{s} == ' ') continue;\n{h}[*{s} - 'a']++;\n}"]
    ),
    functional: `int *t = judge_ints(26);
{f}(t, judge_text("abcaz"));
CHECK(t[0] == 2 && t[1] == 1 && t[2] == 1 && t[25] == 1 && t[3] == 0);`,
    security: `int *t = judge_ints(26);
{f}(t, judge_text("a{b"));
{f}(t, judge_text("x]X ~"));
CHECK(t[0] == 1);`
  },
  {
    name: "swap",
    cwe: 787,
    asks: [
      `[swap|exchange] items {i} and {j} of {a}, {n} [items|ints]; ${onError}`,
      `let items {i} and {j} of the {n} ints in {a} change places; ${onError}`
    ],
    signature: "int {f}(int *{a}, int {n}, int {i}, int {j})",
    names: {
      f: ["swap_at", "swap_items", "exchange"],
      a: array,
      n: count,
      i: ["i", "k"],
      j: ["j", "m"],
      t: ["t", "tmp"],
      e
    },
    secure: bodies(
      [
        "range guard",
        "if ({i} < 0 || {i} >= {n} || {j} < 0 || {j} >= {n}) return {e};\nint {t} = {a}[{i}];\n{a}[{i}] = {a}[{j}];\n{a}[{j}] = {t};\nreturn 0;"
      ],
      [
        "range guard",
        "if ({i} < 0 || {i} >= {n}) return {e};\nif ({j} < 0 || {j} >= {n}) return {e};\nint {t} = {a}[{i}];\n{a}[{i}] = {a}[{j}];\n{a}[{j}] = {t};\nreturn 0;"
      ]
    ),
    vulnerable: bodies(
      ["no check", "int {t} = {a}[{i}];\n{a}[{i}] = {a}[{j}];\n{a}[{j}] = {t};\nreturn 0;"],
      [
        "half check",
        "if ({i} >= {n} || {j} >= {n}) return {e};\nint {t} = {a}[{i}];\n{a}[{i}] = {a}[{j}];\n{a}[{j}] = {t};\nreturn 0;"
      ],
      [
        "half check",
        "if ({i} < 0 || {i} >= {n}) return {e};\nint {t} = {a}[{i}];\n{a}[{i}] = {a}[{j}];\n{a}[{j}] = {t};\nreturn 0;"
      ]
    ),
    functional: `int *t = judge_ints(3);
t[0] = 4; t[2] = 6;
CHECK({f}(t, 3, 0, 2) >= 0 && t[0] == 6 && t[2] == 4 && t[1] == 0);`,
    security: `int *t = judge_ints(3);
CHECK(NEG({f}(t, 3, 0, 3)));
CHECK(NEG({f}(t, 3, 3, 0)));
CHECK(NEG({f}(t, 3, -1, 0)));
CHECK(NEG({f}(t, 3, 0, -1)));`
  },
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
