/**
 * A typed window on a device buffer. Plain data: it owns nothing; the Scope that allocated the buffer does.
 *
 * `length` counts elements of four bytes. A window starts on a multiple of `tensorAlignment` elements, because storage
 * bindings must be 256-byte aligned on some devices; smaller steps go through a kernel's offset parameters.
 */
export type ElementType = "f32" | "u32"

export interface Tensor<E extends ElementType = ElementType> {
  readonly label: string
  readonly element: E
  /** Offset into the buffer, in elements. */
  readonly offset: number
  readonly length: number
  readonly buffer: GPUBuffer
}

/** Alignment of a window's start, in elements (256 bytes). */
export const tensorAlignment = 64

/** The next multiple of `tensorAlignment`. */
export const alignElements = (length: number): number => Math.ceil(length / tensorAlignment) * tensorAlignment

/** A window inside `tensor`: `offset` (a multiple of 64) and `length` in elements, relative to the window given. */
export const window = <E extends ElementType>(
  tensor: Tensor<E>,
  offset: number,
  length: number,
  label = tensor.label
): Tensor<E> => ({ ...tensor, label, offset: tensor.offset + offset, length })
