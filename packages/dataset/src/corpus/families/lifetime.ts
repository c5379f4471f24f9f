/** Lifetimes: double free, use after free, leaks on an error path (CWE-415, CWE-416, CWE-401). */
import { bodies, type Family, onError, pools } from "../Family.ts"

const { count, error: e, handle, pointer, target, text } = pools
const buffer = ["b", "bf", "in"] as const
const bytes = ["n", "size", "len"] as const

export const lifetimeFamilies: ReadonlyArray<Family> = [
  {
    name: "release",
    cwe: 415,
    asks: [
      "[give back|free|drop] the data of {b} and set its size to 0",
      "[empty|clear|reset] {b}: free its data, size 0"
    ],
    signature: "void {f}(buf *{b})",
    names: { f: ["release", "buf_clear", "empty_buf", "buf_drop"], b: ["b", "bf", "in", "buff"] },
    secure: bodies(
      ["pointer cleared", "free({b}->data);\n{b}->data = NULL;\n{b}->size = 0;"],
      ["pointer cleared", "free({b}->data);\n{b}->size = 0;\n{b}->data = NULL;"],
      ["pointer cleared", "if ({b}->data) free({b}->data);\n{b}->data = NULL;\n{b}->size = 0;"]
    ),
    vulnerable: bodies(
      ["pointer kept", "free({b}->data);\n{b}->size = 0;"],
      ["irrelevant check", "if ({b}->data) free({b}->data);\n{b}->size = 0;"],
      ["irrelevant check", "if (!{b}) return;\nfree({b}->data);\n{b}->size = 0;"]
    ),
    functional: "buf t = { judge_heap(4), 4 };\n{f}(&t);\nCHECK(judge_frees == 1 && t.size == 0);",
    security: "buf t = { judge_heap(4), 4 };\n{f}(&t);\n{f}(&t);\nCHECK(judge_live == 0);"
  },
  {
    name: "renew",
    cwe: 415,
    asks: [
      `replace the data of {b} by {n} new bytes; ${onError}`,
      `free the data of {b} and give it {n} new bytes; ${onError}`
    ],
    signature: "int {f}(buf *{b}, int {n})",
    names: { f: ["renew", "buf_reset", "new_data"], b: buffer, n: bytes, p: pointer, e },
    secure: bodies(
      [
        "new block first",
        "char *{p} = malloc({n});\nif (!{p}) return {e};\nfree({b}->data);\n{b}->data = {p};\nreturn 0;"
      ],
      ["pointer overwritten", "free({b}->data);\n{b}->data = malloc({n});\nreturn {b}->data ? 0 : {e};"],
      ["pointer overwritten", "free({b}->data);\n{b}->data = malloc({n});\nif (!{b}->data) return {e};\nreturn 0;"]
    ),
    vulnerable: bodies(
      [
        "pointer kept on failure",
        "free({b}->data);\nchar *{p} = malloc({n});\nif (!{p}) return {e};\n{b}->data = {p};\nreturn 0;"
      ],
      [
        "irrelevant check",
        "if ({b}->data) free({b}->data);\nchar *{p} = malloc({n});\nif (!{p}) return {e};\n{b}->data = {p};\nreturn 0;"
      ]
    ),
    functional:
      "buf t = { judge_heap(4), 4 };\nchar *u = t.data;\nCHECK({f}(&t, 8) >= 0 && t.data && t.data != u && judge_frees == 1 && judge_live == 1);\nmemset(t.data, 1, 8);",
    security:
      "buf t = { judge_heap(4), 4 };\nFAIL(1);\nCHECK(NEG({f}(&t, 8)));\nif (t.data) t.data[0] = 1;\njudge_free(t.data);\nCHECK(judge_live == 0);"
  },
  {
    name: "freeptr",
    cwe: 415,
    asks: [
      "[give back|free|drop] the [block|memory] that *{p} points to",
      "[free|release|give up] what *{p} points to, [heap memory|a block]"
    ],
    signature: "void {f}(char **{p})",
    names: { f: ["free_ptr", "drop_ptr", "free_at", "let_go"], p: ["p", "ptr", "ref", "pp"] },
    secure: bodies(
      ["pointer cleared", "free(*{p});\n*{p} = NULL;"],
      ["pointer cleared", "if (*{p}) {\nfree(*{p});\n*{p} = NULL;\n}"]
    ),
    vulnerable: bodies(
      ["pointer kept", "free(*{p});"],
      ["irrelevant check", "if (*{p}) free(*{p});"],
      ["wrong pointer cleared", "free(*{p});\n{p} = NULL;"]
    ),
    functional: "char *t = judge_heap(4);\n{f}(&t);\nCHECK(judge_frees == 1);",
    security: "char *t = judge_heap(4);\n{f}(&t);\n{f}(&t);\nCHECK(judge_live == 0);"
  },
  {
    name: "popnode",
    cwe: 416,
    asks: [
      "[remove|drop] the first node of list *{h} and return its value, {e} if empty",
      "[unlink and free|free] the head of *{h}; return its value or {e}"
    ],
    signature: "int {f}(node **{h})",
    names: { f: ["pop_node", "shift", "take_head"], h: ["h", "head", "list"], p: pointer, v: ["v", "x", "res"], e },
    secure: bodies(
      [
        "value saved",
        "node *{p} = *{h};\nif (!{p}) return {e};\nint {v} = {p}->value;\n*{h} = {p}->next;\nfree({p});\nreturn {v};"
      ],
      [
        "value saved",
        "if (!*{h}) return {e};\nnode *{p} = *{h};\nint {v} = {p}->value;\n*{h} = {p}->next;\nfree({p});\nreturn {v};"
      ]
    ),
    vulnerable: bodies(
      [
        "used after free",
        "node *{p} = *{h};\nif (!{p}) return {e};\n*{h} = {p}->next;\nfree({p});\nreturn {p}->value;"
      ],
      [
        "used after free",
        "node *{p} = *{h};\nif (!{p}) return {e};\nint {v} = {p}->value;\nfree({p});\n*{h} = {p}->next;\nreturn {v};"
      ]
    ),
    functional:
      "node *u = judge_heap(sizeof(node)), *t = judge_heap(sizeof(node));\nu->value = 8; u->next = NULL; t->value = 7; t->next = u;\nCHECK({f}(&t) == 7 && t == u && judge_frees == 1);\nCHECK({f}(&t) == 8 && t == NULL);",
    security:
      "node *t = judge_heap(sizeof(node));\nt->value = 7; t->next = NULL;\nCHECK({f}(&t) == 7 && t == NULL && judge_live == 0);\nCHECK(NEG({f}(&t)));"
  },
  {
    name: "freelist",
    cwe: 416,
    asks: [
      "[free|drop] [every node|all nodes] of [the list|list] {h}",
      "[give back|free] all nodes from {h} to the [end|last]"
    ],
    signature: "void {f}(node *{h})",
    names: { f: ["free_list", "drop_all", "free_all", "list_end"], h: ["h", "head", "p", "list"], q: ["q", "t", "nx"] },
    secure: bodies(
      ["next saved", "while ({h}) {\nnode *{q} = {h}->next;\nfree({h});\n{h} = {q};\n}"],
      ["next saved", "node *{q};\nfor (; {h}; {h} = {q}) {\n{q} = {h}->next;\nfree({h});\n}"]
    ),
    vulnerable: bodies(
      ["used after free", "while ({h}) {\nfree({h});\n{h} = {h}->next;\n}"],
      ["used after free", "for (; {h}; {h} = {h}->next) free({h});"],
      ["used after free", "while ({h}) {\nnode *{q} = {h};\nfree({q});\n{h} = {q}->next;\n}"]
    ),
    functional:
      "node *u = judge_heap(sizeof(node)), *t = judge_heap(sizeof(node));\nu->value = 8; u->next = NULL; t->value = 7; t->next = u;\n{f}(t);\nCHECK(judge_frees == 2);",
    security:
      "node *u = judge_heap(sizeof(node)), *t = judge_heap(sizeof(node));\nu->value = 8; u->next = NULL; t->value = 7; t->next = u;\n{f}(t);\nCHECK(judge_live == 0);\n{f}(NULL);"
  },
  {
    name: "takebyte",
    cwe: 416,
    asks: [
      "[free|drop] the data of {b}, return its first byte; {e} if it has none",
      "[free|drop] the data of {b} and return the byte it began with, {e} without data"
    ],
    signature: "int {f}(buf *{b})",
    names: { f: ["take_byte", "drop_data", "close_buf"], b: buffer, c: ["c", "r", "res"], e },
    secure: bodies(
      [
        "value saved",
        "if (!{b}->data) return {e};\nint {c} = {b}->data[0];\nfree({b}->data);\n{b}->data = NULL;\nreturn {c};"
      ],
      ["value saved", "int {c} = {b}->data ? {b}->data[0] : {e};\nfree({b}->data);\n{b}->data = NULL;\nreturn {c};"]
    ),
    vulnerable: bodies(
      [
        "used after free",
        "if (!{b}->data) return {e};\nfree({b}->data);\nint {c} = {b}->data[0];\n{b}->data = NULL;\nreturn {c};"
      ],
      ["used after free", "if (!{b}->data) return {e};\nfree({b}->data);\nreturn {b}->data[0];"]
    ),
    functional: "buf t = { judge_heap(4), 4 };\nt.data[0] = 'k';\nCHECK({f}(&t) == 'k' && judge_frees == 1);",
    security:
      "buf t = { judge_heap(4), 4 };\nt.data[0] = 'k';\nCHECK({f}(&t) == 'k');\nCHECK(NEG({f}(&t)));\nCHECK(judge_live == 0);"
  },
  {
    name: "limited",
    cwe: 401,
    asks: [
      "[heap|new] copy of {s}, NULL if it is longer than {n}",
      "return new memory with {s}; NULL for more than {n} [characters|bytes]"
    ],
    signature: "char *{f}(const char *{s}, size_t {n})",
    names: { f: ["limited", "dup_short", "copy_short"], s: text, n: count, p: pointer },
    secure: bodies(
      ["test before allocation", "if (strlen({s}) > {n}) return NULL;\nreturn strdup({s});"],
      [
        "free on every path",
        "char *{p} = strdup({s});\nif ({p} && strlen({p}) > {n}) {\nfree({p});\nreturn NULL;\n}\nreturn {p};"
      ],
      ["test before allocation", "return strlen({s}) > {n} ? NULL : strdup({s});"]
    ),
    vulnerable: bodies(
      ["early return keeps the block", "char *{p} = strdup({s});\nif (strlen({s}) > {n}) return NULL;\nreturn {p};"],
      [
        "early return keeps the block",
        "char *{p} = strdup({s});\nif (!{p}) return NULL;\nif (strlen({p}) > {n}) return NULL;\nreturn {p};"
      ],
      [
        "early return keeps the block",
        "char *{p} = strdup({s});\nif (!{p} || strlen({p}) > {n}) return NULL;\nreturn {p};"
      ]
    ),
    functional:
      'char *t = {f}(judge_text("abc"), 3);\nCHECK(t && !strcmp(t, "abc"));\nCHECK({f}(judge_text("abcd"), 3) == NULL);',
    security:
      'CHECK({f}(judge_text("abcdef"), 3) == NULL && judge_live == 0);\nFAIL(1);\nCHECK({f}(judge_text("ab"), 3) == NULL && judge_live == 0);'
  },
  {
    name: "grow",
    cwe: 401,
    asks: [
      `[grow|resize] the data of {b} to {n} bytes; ${onError}`,
      `let the data of {b} have {n} bytes, keep its content; ${onError}`
    ],
    signature: "int {f}(buf *{b}, int {n})",
    names: { f: ["grow", "resize", "buf_grow"], b: buffer, n: bytes, p: pointer, e },
    secure: bodies(
      ["old block kept", "char *{p} = realloc({b}->data, {n});\nif (!{p}) return {e};\n{b}->data = {p};\nreturn 0;"],
      [
        "old block kept",
        "char *{p} = realloc({b}->data, {n});\nif ({p} == NULL) return {e};\n{b}->data = {p};\n{b}->size = {n};\nreturn 0;"
      ],
      ["old block kept", "char *{p} = realloc({b}->data, {n});\nif ({p}) {b}->data = {p};\nreturn {p} ? 0 : {e};"]
    ),
    vulnerable: bodies(
      ["old block lost", "{b}->data = realloc({b}->data, {n});\nif (!{b}->data) return {e};\nreturn 0;"],
      ["old block lost", "{b}->data = realloc({b}->data, {n});\nreturn {b}->data ? 0 : {e};"],
      ["no check", "{b}->data = realloc({b}->data, {n});\n{b}->size = {n};\nreturn 0;"]
    ),
    functional:
      "buf t = { judge_heap(4), 4 };\nt.data[3] = 'k';\nCHECK({f}(&t, 12) >= 0 && t.data && t.data[3] == 'k' && judge_live == 1);\nt.data[11] = 1;",
    security:
      "buf t = { judge_heap(4), 4 };\nFAIL(1);\nCHECK(NEG({f}(&t, 12)));\nCHECK(judge_live == (t.data ? 1 : 0));"
  },
  {
    name: "firstline",
    cwe: 775,
    asks: [
      `read the first line of file {s} into {d} ({n} bytes); ${onError}`,
      `open {s} and read one line of at most {n} bytes to {d}; ${onError}`
    ],
    signature: "int {f}(const char *{s}, char *{d}, int {n})",
    names: {
      f: ["first_line", "read_head", "head_of"],
      s: ["s", "path", "name"],
      d: target,
      n: count,
      h: handle,
      r: ["r", "res", "got"],
      e
    },
    secure: bodies(
      [
        "closed on every path",
        'FILE *{h} = fopen({s}, "r");\nif (!{h}) return {e};\nchar *{r} = fgets({d}, {n}, {h});\nfclose({h});\nreturn {r} ? 0 : {e};'
      ],
      [
        "closed on every path",
        'FILE *{h} = fopen({s}, "r");\nif (!{h}) return {e};\nint {r} = fgets({d}, {n}, {h}) ? 0 : {e};\nfclose({h});\nreturn {r};'
      ]
    ),
    vulnerable: bodies(
      [
        "open on the early return",
        'FILE *{h} = fopen({s}, "r");\nif (!{h}) return {e};\nif (!fgets({d}, {n}, {h})) return {e};\nfclose({h});\nreturn 0;'
      ],
      ["never closed", 'FILE *{h} = fopen({s}, "r");\nif (!{h}) return {e};\nreturn fgets({d}, {n}, {h}) ? 0 : {e};'],
      ["never closed", 'FILE *{h} = fopen({s}, "r");\nif (!{h} || !fgets({d}, {n}, {h})) return {e};\nreturn 0;']
    ),
    functional:
      'char *t = judge_bytes(8);\njudge_input = "abc";\nCHECK({f}("f", t, 8) >= 0 && !strcmp(t, "abc") && !strcmp(judge_path, "f"));',
    security:
      'char *t = judge_bytes(8);\njudge_input = "abc";\nCHECK({f}("f", t, 8) >= 0 && judge_open == 0);\njudge_input = NULL;\nCHECK(NEG({f}("f", t, 8)) && judge_open == 0);\njudge_open_fails = 1;\nCHECK(NEG({f}("f", t, 8)) && judge_open == 0);'
  }
]
