/** The teacher service, its layers, and the way from a quotation to tokens. */
export * from "./ChatSettings.ts"
export * from "./Spans.ts"
export * from "./Teacher.ts"
export * from "./TeacherChat.ts"
export * from "./TeacherError.ts"
export * from "./TeacherReplay.ts"
export * from "./TeacherRules.ts"
export * from "./TeacherUsage.ts"
