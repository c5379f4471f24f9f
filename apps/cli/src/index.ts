/** The command line. Run `src/main.ts`; what is exported here serves the other programs of this repository. */
export { describeCause, describeError, oneLine } from "./errors.ts"
export { duration, makeProgress, type Progress, type ProgressEvent, progressLine } from "./progress.ts"
