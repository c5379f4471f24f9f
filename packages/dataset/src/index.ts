/** Data to train and to measure on: the embedded corpus of small C tasks, real data sets, repairs and their curriculum. */
export * from "./corpus/index.ts"
export { hash32, makeRandom, type Random } from "./Random.ts"
