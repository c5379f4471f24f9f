/** The teacher service, its layers, and the way from a quotation to tokens. */
export * from "./Spans.ts"
export * from "./Teacher.ts"
export * from "./TeacherError.ts"
export * from "./TeacherReplay.ts"
export * from "./TeacherRules.ts"
