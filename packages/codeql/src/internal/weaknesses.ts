/**
 * What the panel's tools mean in terms of CWE, and how bad each class is.
 *
 * gcc, clang and cppcheck give no security severity, so one table of scores in [0, 10] stands for all (in the manner of
 * CodeQL's `security-severity`); `severityFromScore` turns them into the four steps. A warning whose class is not in this
 * table is about style or quality and is dropped: this table is the list of what the panel considers a weakness.
 */
import { type CweId, cweNumber, type Severity, severityFromScore, severityRank } from "@srcode/domain"

const scores: Readonly<Record<number, number>> = {
  // Spatial memory safety.
  ...{ 119: 9.3, 120: 9.3, 121: 9.3, 122: 9.3, 124: 8.8, 125: 7.5, 126: 7.5, 127: 7.5, 129: 8.8, 131: 8.8, 170: 7.5 },
  ...{ 193: 8.8, 787: 9.3, 788: 8.8, 805: 9.3, 823: 8.1 },
  // Temporal memory safety.
  ...{ 415: 9.3, 416: 9.3, 562: 8.1, 590: 8.1, 672: 7.5, 761: 8.1, 762: 7.5, 763: 7.5, 825: 8.1 },
  // Null pointers and unchecked results.
  ...{ 252: 5.3, 253: 5.3, 476: 7.5, 690: 7.5 },
  // Integers.
  ...{ 128: 7.8, 190: 8.1, 191: 8.1, 192: 7.5, 194: 7.5, 195: 7.5, 196: 7.5, 197: 7.5, 680: 8.8, 681: 7.5 },
  ...{ 369: 5.5, 1335: 5.5 },
  // Injection and input.
  ...{ 20: 7.5, 22: 7.5, 73: 7.5, 77: 9.8, 78: 9.8, 88: 8.8, 134: 9.3, 242: 9.8, 676: 6.5 },
  // Initialisation, resources, sizes.
  ...{
    401: 5.0,
    404: 5.0,
    457: 7.8,
    467: 8.8,
    468: 7.5,
    665: 7.8,
    770: 5.0,
    772: 5.0,
    775: 5.0,
    789: 7.5,
    908: 7.8,
    910: 7.5
  },
  // Races, secrets, randomness, permissions.
  ...{ 338: 5.5, 362: 7.0, 367: 7.0, 377: 7.0, 403: 5.5, 479: 7.0, 14: 5.5, 732: 7.5, 250: 6.5, 273: 7.5, 243: 6.5 },
  ...{ 664: 5.5, 688: 5.5, 686: 5.5, 685: 7.5, 628: 5.5, 843: 8.8, 835: 5.5, 674: 5.5 }
}

/** Severity of a class, undefined for a class which is no security weakness here. */
export const severityOfCwe = (id: CweId): Severity | undefined => {
  const score = scores[cweNumber(id)]
  return score === undefined ? undefined : severityFromScore(score)
}

/** The worst severity among `cwes`; undefined when none of them is a weakness. */
export const severityOfCwes = (cwes: ReadonlyArray<CweId>): Severity | undefined =>
  cwes
    .flatMap((id) => severityOfCwe(id) ?? [])
    .reduce<Severity | undefined>(
      (worst, next) => (worst === undefined || severityRank(next) > severityRank(worst) ? next : worst),
      undefined
    )

/** Rules that fire on the mere use of a function: a hint, not a proof, so never worse than medium. */
const usageRules = /^security\.insecureAPI\.(?!gets)/

export const severityOfRule = (ruleId: string, cwes: ReadonlyArray<CweId>): Severity | undefined => {
  const severity = severityOfCwes(cwes)
  return severity !== undefined && severity !== "low" && usageRules.test(ruleId) ? "medium" : severity
}

/** gcc warning options that mean a weakness. `-Wanalyzer-*` carry their class themselves; those that do not are here. */
export const gccOptions: Readonly<Record<string, ReadonlyArray<number>>> = {
  "-Waggressive-loop-optimizations": [125],
  "-Walloc-size-larger-than=": [190, 789],
  "-Wanalyzer-allocation-size": [131],
  "-Wanalyzer-deref-before-check": [476],
  "-Wanalyzer-infinite-recursion": [674],
  "-Wanalyzer-out-of-bounds": [119],
  "-Wanalyzer-possible-null-argument": [690],
  "-Wanalyzer-possible-null-dereference": [690],
  "-Wanalyzer-shift-count-negative": [1335],
  "-Wanalyzer-shift-count-overflow": [1335],
  "-Wanalyzer-use-of-pointer-in-stale-stack-frame": [562],
  "-Wanalyzer-write-to-const": [119],
  "-Warray-bounds": [119],
  "-Warray-bounds=": [119],
  "-Wdangling-pointer": [562],
  "-Wdangling-pointer=": [562],
  "-Wdiv-by-zero": [369],
  "-Wformat-overflow=": [120],
  "-Wformat-security": [134],
  "-Wfree-nonheap-object": [590],
  "-Wmaybe-uninitialized": [457],
  "-Wmemset-elt-size": [131],
  "-Wmismatched-dealloc": [762],
  "-Wnonnull": [476],
  "-Wnull-dereference": [476],
  "-Woverflow": [190],
  "-Wreturn-local-addr": [562],
  "-Wshift-count-negative": [1335],
  "-Wshift-count-overflow": [1335],
  "-Wsizeof-array-argument": [467],
  "-Wsizeof-pointer-div": [467],
  "-Wsizeof-pointer-memaccess": [467],
  "-Wstringop-overflow=": [787],
  "-Wstringop-overread": [125],
  "-Wstringop-truncation": [170],
  "-Wuninitialized": [457],
  "-Wuse-after-free": [416],
  "-Wuse-after-free=": [416]
}

/** clang checkers, by the longest prefix that fits; `unix.Malloc` and taint are told apart by their message. */
const clangCheckers: ReadonlyArray<readonly [string, ReadonlyArray<number>]> = [
  ["alpha.security.ArrayBound", [119]],
  ["alpha.security.MallocOverflow", [190]],
  ["alpha.security.ReturnPtrRange", [119]],
  ["alpha.security.cert.pos.34c", [686]],
  ["alpha.unix.cstring.BufferOverlap", [119]],
  ["alpha.unix.cstring.NotNullTerminated", [170]],
  ["alpha.unix.cstring.OutOfBounds", [119]],
  ["alpha.unix.cstring.UninitializedRead", [457]],
  ["core.CallAndMessage", [457]],
  ["core.DivideZero", [369]],
  ["core.NonNullParamChecker", [476]],
  ["core.NullDereference", [476]],
  ["core.NullPointerArithm", [476]],
  ["core.StackAddressEscape", [562]],
  ["core.UndefinedBinaryOperatorResult", [457]],
  ["core.VLASize", [789]],
  ["core.uninitialized", [457]],
  ["security.ArrayBound", [119]],
  ["security.FloatLoopCounter", []],
  ["security.PointerSub", [468]],
  ["security.cert.env.InvalidPtr", [416]],
  ["security.insecureAPI.UncheckedReturn", [252]],
  ["security.insecureAPI.getpw", [676]],
  ["security.insecureAPI.gets", [242]],
  ["security.insecureAPI.mkstemp", [377]],
  ["security.insecureAPI.mktemp", [377]],
  ["security.insecureAPI.rand", [338]],
  ["security.insecureAPI.strcpy", [120, 676]],
  ["security.insecureAPI.vfork", [676]],
  ["unix.MallocSizeof", [131]],
  ["unix.MismatchedDeallocator", [762]],
  ["unix.Vfork", [676]],
  ["unix.cstring.BadSizeArg", [119]],
  ["unix.cstring.NullArg", [476]],
  ["unix.StdCLibraryFunctions", [628]],
  ["cplusplus.NewDeleteLeaks", [401]]
]

export const clangCwes = (ruleId: string, message: string): ReadonlyArray<number> => {
  if (ruleId === "unix.Malloc" || ruleId === "cplusplus.NewDelete") {
    if (/leak/i.test(message)) return [401]
    if (/free released|delete released|double/i.test(message)) return [415]
    if (/after it is freed|after it is deleted|released memory/i.test(message)) return [416]
    return [590]
  }
  if (ruleId.includes("taint") || ruleId.includes("Taint")) {
    const named = /CWE-(\d+)/.exec(message)?.[1]
    if (named !== undefined) return [Number(named)]
    return /format string/i.test(message) ? [134] : /command|system/i.test(message) ? [78] : [20]
  }
  return clangCheckers.find(([checker]) => ruleId.startsWith(checker))?.[1] ?? []
}
