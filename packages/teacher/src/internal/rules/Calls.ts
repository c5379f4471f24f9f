/** What the C library's functions need, give and change. A table by name; unknown functions only take pointers away. */

import { calloc, fclose, free, malloc, realloc, strdup } from "./Allocations.ts"
import { bare, type Node, norm, part } from "./Ast.ts"
import type { Call } from "./Call.ts"
import { searchOf } from "./Conditions.ts"
import { copies } from "./Copies.ts"
import { evaluate, locate } from "./Expressions.ts"
import { checkPath, shell } from "./Filters.ts"
import { fgets, format, output, overflowBuiltin, scanf } from "./Inputs.ts"
import { atom, constant } from "./Linear.ts"
import { dereference, nullSink } from "./Pointers.ts"
import type { State } from "./State.ts"
import { type CType, charPointer, intType, sizeType, unknownType } from "./Types.ts"
import type { Value, Walk } from "./Walk.ts"

/** Arguments that a function follows as pointers. */
const follows: Readonly<Record<string, ReadonlyArray<number>>> = {
  strlen: [0],
  strcpy: [0, 1],
  strncpy: [0, 1],
  strcat: [0, 1],
  strncat: [0, 1],
  memcpy: [0, 1],
  memmove: [0, 1],
  memset: [0],
  memcmp: [0, 1],
  memchr: [0],
  strcmp: [0, 1],
  strncmp: [0, 1],
  strchr: [0],
  strrchr: [0],
  strstr: [0, 1],
  strpbrk: [0, 1],
  strspn: [0, 1],
  strcspn: [0, 1],
  strdup: [0],
  strndup: [0],
  sprintf: [0],
  snprintf: [0],
  fgets: [0, 2],
  fputs: [0, 1],
  fprintf: [0],
  fclose: [0],
  fread: [0, 3],
  fwrite: [0, 3],
  fgetc: [0],
  sscanf: [0],
  fscanf: [0],
  atoi: [0],
  strtol: [0],
  puts: [0],
  printf: [0],
  system: [0],
  fopen: [0],
  remove: [0],
  unlink: [0]
}
/** Arguments that are written, so that reading them first is no matter. */
const targets: Readonly<Record<string, number>> = {
  snprintf: 0,
  sprintf: 0,
  strcpy: 0,
  strncpy: 0,
  memcpy: 0,
  memmove: 0,
  memset: 0,
  fgets: 0,
  fread: 0,
  gets: 0
}

const results: Readonly<Record<string, CType>> = {
  strlen: sizeType,
  strspn: sizeType,
  strcspn: sizeType,
  fread: sizeType,
  fwrite: sizeType,
  malloc: { ...unknownType, base: "void", depth: 1 },
  calloc: { ...unknownType, base: "void", depth: 1 },
  realloc: { ...unknownType, base: "void", depth: 1 },
  strdup: charPointer,
  strndup: charPointer,
  strchr: charPointer,
  strrchr: charPointer,
  strstr: charPointer,
  strpbrk: charPointer,
  fgets: charPointer,
  getenv: charPointer,
  strtok: charPointer,
  memchr: charPointer,
  fopen: { ...unknownType, base: "file", depth: 1 },
  popen: { ...unknownType, base: "file", depth: 1 },
  tmpfile: { ...unknownType, base: "file", depth: 1 }
}

export const applyCall = (walk: Walk, node: Node, state: State): Value => {
  const callee = node.children[0]
  const list = part(node, "arguments")?.children ?? []
  const name = callee?.type === "identifier" ? callee.text : callee === undefined ? "" : norm(callee)
  if (callee !== undefined && callee.type !== "identifier") evaluate(walk, callee, state)
  const args = list.map((arg, i) => {
    const inner = bare(arg)
    return targets[name] === i && inner.type === "identifier" && state.cell(inner.text).pending !== undefined
      ? locate(walk, inner, state, true)
      : evaluate(walk, arg, state)
  })
  const call: Call = { walk, node, name, args, atom: `${name}()@${node.start}`, state }
  for (const i of follows[name] ?? []) {
    const key = args[i]?.key
    if (key !== undefined && targets[name] !== i) unsetText(call, key)
    if (key !== undefined) followed(call, key)
    else if (args[i]?.call !== undefined) nullSink(walk, node, args[i]?.call?.atom ?? "", state)
  }
  for (const arg of args)
    if (
      name !== "free" &&
      name !== "fclose" &&
      follows[name] === undefined &&
      arg.key !== undefined &&
      arg.type.depth > 0 &&
      state.cell(arg.key).freed !== undefined
    )
      dereference(walk, node, arg.key, state)
  const known = handlers[name] ?? copies[name]
  if (known !== undefined) known(call)
  else if (follows[name] === undefined && !harmless.test(name)) unknownCall(call)
  const type = results[name] ?? (handlers[name] === undefined ? unknownType : intType)
  const value: Value = { node, type, call: { name, atom: call.atom, args } }
  if (name === "strlen") {
    const [text] = args
    const lin =
      text?.literal !== undefined ? constant(text.literal.length) : atom(`strlen(${norm(text?.node ?? node)})`)
    return { node, type, lin }
  }
  const search = value.call === undefined ? undefined : searchOf(value.call)
  if (search !== undefined) state.update(call.atom, { search })
  return type.depth > 0 ? value : { ...value, lin: atom(call.atom) }
}

/** Reading a text buffer that nothing was written to. */
const unsetText = ({ node, state, walk }: Call, key: string): void => {
  const { unset } = state.cell(key)
  if (unset === undefined || !walk.wants(457)) return
  walk.report({
    cwe: 457,
    severity: "medium",
    message: `${key} is read before anything is written to it`,
    node,
    fixes: []
  })
}

const followed = (call: Call, key: string): void => {
  const { walk, node, state } = call
  if (call.name === "fclose") return
  dereference(walk, node, key, state)
}

const harmless =
  /^(is(alnum|alpha|digit|space|upper|lower|xdigit|punct|print|cntrl|graph)|to(upper|lower)|abs|exit|abort|rand|perror|fflush|feof|ferror|rewind|putchar|getchar)$/

/** Any function may keep a block, and may write through the pointers it is given. */
const unknownCall = (call: Call): void => {
  // With a NULL dereference claimed, whatever a function returns may be NULL until it is looked at.
  if (!call.walk.closed && call.walk.wants(476)) mayBeNull(call)
  for (const arg of call.args) {
    if (arg.key === undefined) continue
    if (arg.key.startsWith("&")) {
      call.state.forget(arg.key.slice(1))
      call.state.cells.delete(arg.key.slice(1))
    } else if (arg.type.depth > 0) {
      const { owned: _owned, unset: _unset, ...rest } = call.state.cell(arg.key)
      call.state.cells.set(arg.key, rest)
      call.state.forget(`*${arg.key}`)
    }
  }
}

const fopen = (call: Call): void => {
  checkPath(call)
  call.state.cells.set(call.atom, {
    nullable: call.node,
    owned: true,
    block: { bytes: undefined, elements: undefined, node: call.node, kind: "file" }
  })
}

const mayBeNull = (call: Call): void => call.state.update(call.atom, { nullable: call.node })

const handlers: Readonly<Record<string, (call: Call) => void>> = {
  malloc,
  calloc,
  realloc,
  strdup,
  free,
  fclose,
  pclose: fclose,
  fopen,
  popen: (call) => {
    shell(call)
    fopen({ ...call, args: [] })
  },
  system: shell,
  execlp: shell,
  remove: checkPath,
  unlink: checkPath,
  strchr: mayBeNull,
  strrchr: mayBeNull,
  strstr: mayBeNull,
  strpbrk: mayBeNull,
  getenv: mayBeNull,
  strtok: mayBeNull,
  memchr: mayBeNull,
  sscanf: scanf(1),
  fscanf: scanf(1),
  scanf: scanf(0),
  fgets,
  fputs: output(1),
  fprintf: output(0),
  fwrite: output(3),
  printf: format(0),
  syslog: format(1),
  __builtin_add_overflow: overflowBuiltin,
  __builtin_mul_overflow: overflowBuiltin,
  __builtin_sub_overflow: overflowBuiltin,
  strlen: () => {},
  strcmp: () => {},
  strncmp: () => {}
}
