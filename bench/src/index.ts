/** What other programs run of the benchmarks: the profile of a model. */
export { type ProfileOptions, profileModel } from "./profile/run.ts"
export { type WorkloadName, workloadNames } from "./profile/workloads.ts"
