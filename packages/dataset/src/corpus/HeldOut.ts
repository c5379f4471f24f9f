/**
 * The families that supervised tuning, the reward model and reinforcement never see. They are in the base corpus (as
 * any task a base model has met before), but without a verdict line. This list is fixed: changing it changes what every
 * earlier measurement meant.
 */
export const heldOutFamilies = ["swap", "numfmt", "first", "freeptr", "ping", "slot", "clone", "twoints"] as const

/** Prompts whose hash is 0 modulo this number never enter any training set. */
export const heldOutModulus = 8
