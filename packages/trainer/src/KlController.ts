/**
 * The adaptive coefficient κ of the KL penalty (Ziegler et al. 2019): it grows while the measured KL lies above its
 * target and shrinks below it. The state is plain data, so that a checkpoint can carry it.
 */
import { Schema } from "effect"

const Positive = Schema.Finite.check(Schema.isGreaterThan(0))

export const KlController = Schema.Struct({
  /** κ, the coefficient now. */
  coef: Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0)),
  /** KL per response (summed over its tokens, in nats) that is aimed at. */
  target: Positive,
  /** Number of responses over which a full correction takes effect. */
  horizon: Positive
})
export type KlController = typeof KlController.Type

export const initialKlController: KlController = { coef: 0.2, target: 6, horizon: 10_000 }

/**
 * κ after a batch of `samples` responses with mean KL `kl`: κ·(1 + clip(kl/target − 1, ±0.2)·samples/horizon), never
 * below 0. A KL that is not a number leaves κ as it is; the step it came from fails on its own.
 */
export const updateKlController = (controller: KlController, kl: number, samples: number): KlController => {
  if (Number.isNaN(kl)) return controller
  const error = Math.max(-0.2, Math.min(0.2, kl / controller.target - 1))
  return { ...controller, coef: Math.max(0, controller.coef * (1 + (error * samples) / controller.horizon)) }
}
