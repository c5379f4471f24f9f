/** C types as far as the scan needs them, function headers, and the names a lone C program may use. */
import { descend, findAll, type Node, part } from "./Ast.ts"

export interface CType {
  readonly base: "int" | "char" | "float" | "struct" | "void" | "file" | "unknown"
  readonly unsigned: boolean
  /** 64 bits: arithmetic in it cannot overflow an int. */
  readonly wide: boolean
  /** Levels of pointer, arrays included. */
  readonly depth: number
  readonly isConst: boolean
  /** The type's own words, without `const` and stars. */
  readonly name: string
}

export const intType: CType = { base: "int", unsigned: false, wide: false, depth: 0, isConst: false, name: "int" }
export const sizeType: CType = { ...intType, unsigned: true, wide: true, name: "size_t" }
export const unknownType: CType = { ...intType, base: "unknown", name: "" }
export const charPointer: CType = { ...intType, base: "char", depth: 1, name: "char" }

const wideNames = /\b(long|size_t|ssize_t|ptrdiff_t|intmax_t|uintmax_t|u?int64_t|off_t|time_t)\b/
const unsignedNames = /\b(unsigned|size_t|uint\w*_t|u_?int\d*|u_?char|u8|u16|u32|u64|bool|_Bool)\b/

export const typeFrom = (words: string, depth: number): CType => {
  const name = words
    .replace(/\b(const|volatile|static|register|extern|inline)\b/g, " ")
    .replace(/\s+/g, " ")
    .trim()
  const base = /\b(struct|union)\b/.test(name)
    ? "struct"
    : /\bFILE\b/.test(name)
      ? "file"
      : /\bchar\b|\bu?int8_t\b/.test(name)
        ? "char"
        : /\b(float|double)\b/.test(name)
          ? "float"
          : /\bvoid\b/.test(name)
            ? "void"
            : /\b(int|short|long|unsigned|signed|bool|_Bool|enum)\b|_t\b/.test(name)
              ? "int"
              : "unknown"
  return {
    base,
    unsigned: unsignedNames.test(name),
    wide: wideNames.test(name),
    depth,
    isConst: /\bconst\b/.test(words),
    name
  }
}

const elementBytes = (type: CType): number | undefined =>
  type.depth > 0 ? 8 : type.base === "char" ? 1 : type.base === "int" ? (type.wide ? 8 : 4) : undefined

/** Bytes of a value of this type; undefined for structs and unknown types. */
export const bytesOf = elementBytes

/** Bytes of one element behind a pointer of this type. */
export const pointeeBytes = (type: CType): number | undefined => elementBytes({ ...type, depth: type.depth - 1 })

export interface Declared {
  readonly name: string
  readonly type: CType
  /** The size expression of an array, when there is one. */
  readonly size: Node | undefined
  readonly array: boolean
  readonly node: Node
}

/** Reads one declarator (`*p`, `a[10]`, `*names[4]`, `(*fn)(int)`); undefined when it has no name. */
export const declared = (words: string, declarator: Node): Declared | undefined => {
  let depth = 0
  let size: Node | undefined
  let array = false
  let at: Node | undefined = declarator
  while (at !== undefined && at.type !== "identifier" && at.type !== "field_identifier") {
    if (at.type === "pointer_declarator") depth += 1
    if (at.type === "array_declarator") {
      depth += 1
      array = true
      size ??= part(at, "size")
    }
    if (at.type === "function_declarator") return undefined
    at = part(at, "declarator") ?? at.children.find((c) => c.type.endsWith("declarator") || c.type === "identifier")
  }
  return at === undefined ? undefined : { name: at.text, type: typeFrom(words, depth), size, array, node: declarator }
}

/** The words before the declarators of a declaration or parameter: `static const char`. */
export const typeWords = (declaration: Node): string => {
  const first = declaration.children.find((c) => c.field === "declarator")
  return (first === undefined ? declaration.text : declaration.text.slice(0, first.start - declaration.start)).replace(
    /[*\s]+$/,
    ""
  )
}

export interface Header {
  readonly node: Node
  readonly body: Node
  readonly name: string
  readonly returns: CType
  readonly params: ReadonlyArray<Declared>
}

/** The header of a function definition that has a body. */
export const headerOf = (fn: Node): Header | undefined => {
  const body = part(fn, "body")
  const declarator = part(fn, "declarator")
  if (body === undefined || declarator === undefined) return undefined
  const signature = [...descend(declarator)].find((n) => n.type === "function_declarator")
  const depth = signature === undefined ? 0 : [...ancestors(signature, declarator)].filter(isPointer).length
  const name = signature === undefined ? undefined : part(signature, "declarator")
  const list = signature === undefined ? undefined : part(signature, "parameters")
  const params = (list?.children ?? [])
    .filter((c) => c.type === "parameter_declaration")
    .flatMap((p) => {
      const inner = part(p, "declarator")
      const found = inner === undefined ? undefined : declared(typeWords(p), inner)
      return found === undefined ? [] : [found]
    })
  return {
    node: fn,
    body,
    name: name?.text ?? declarator.text.slice(0, 40),
    returns: typeFrom(typeWords(fn), depth),
    params
  }
}

const isPointer = (node: Node): boolean => node.type === "pointer_declarator"
const ancestors = function* (node: Node, until: Node): Generator<Node> {
  for (let at = node.parent; at !== null && at.start >= until.start; at = at.parent) {
    yield at
    if (at === until) return
  }
}

export const functionsOf = (root: Node): ReadonlyArray<Header> =>
  findAll(root, "function_definition").flatMap((fn) => headerOf(fn) ?? [])

const standardTypes =
  /^(const|volatile|static|inline|register|unsigned|signed|char|short|int|long|float|double|void|bool|_Bool|FILE|size_t|ssize_t|ptrdiff_t|u?int(8|16|32|64|ptr|max)_t|struct|union|enum)$/

/**
 * Whether the header uses nothing but C's own types and structs: such a program stands alone, so an unknown name in it
 * is a mistake. Functions out of a larger project are left in peace.
 */
export const standsAlone = (header: Header): boolean =>
  [header.returns, ...header.params.map((p) => p.type)].every((type) =>
    type.name
      .replace(/\b(struct|union|enum)\s+\w+/g, "$1")
      .split(" ")
      .every((word) => standardTypes.test(word) || /^[a-z]{2,8}$/.test(word))
  )

const known = new Set(
  (
    "NULL INT_MAX INT_MIN UINT_MAX LONG_MAX LONG_MIN SIZE_MAX SSIZE_MAX CHAR_BIT CHAR_MAX UCHAR_MAX SHRT_MAX LLONG_MAX " +
    "INT32_MAX INT64_MAX UINT32_MAX EOF BUFSIZ PATH_MAX FILENAME_MAX RAND_MAX SEEK_SET SEEK_CUR SEEK_END stdin stdout " +
    "stderr errno true false EXIT_SUCCESS EXIT_FAILURE EINVAL ENOMEM ERANGE __func__ " +
    "malloc calloc realloc free strdup strndup memcpy memmove memset memcmp memchr strlen strnlen strcpy strncpy strcat " +
    "strncat strlcpy strlcat strcmp strncmp strcasecmp strncasecmp strchr strrchr strstr strpbrk strspn strcspn strtok " +
    "strtok_r strtol strtoul strtoll strtoull strtod atoi atol atof printf fprintf sprintf snprintf vsnprintf vsprintf " +
    "vprintf puts fputs putchar fputc putc fwrite fread fgets fgetc getc getchar gets getline sscanf scanf fscanf fopen " +
    "fclose fflush fseek ftell rewind feof ferror perror system popen pclose remove rename unlink open close read write " +
    "access stat getenv setenv exit abort atexit abs labs rand srand qsort bsearch isalnum isalpha isdigit isspace " +
    "isupper islower isxdigit ispunct isprint iscntrl isgraph toupper tolower assert time clock execl execlp execv execvp fork " +
    "wait waitpid getcwd chdir mkdir rmdir realpath sizeof offsetof __builtin_add_overflow __builtin_mul_overflow " +
    "__builtin_sub_overflow va_start va_end va_arg mkstemp tmpfile"
  ).split(" ")
)

export const isKnownName = (name: string): boolean => known.has(name)
