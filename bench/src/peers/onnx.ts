/**
 * Writes ONNX files: just enough of onnx.proto's messages (fields by number) for graphs of float tensors, in the wire format
 * of protocol buffers.
 */

type Bytes = Uint8Array<ArrayBuffer>

const text = new TextEncoder()

const varint = (value: number | bigint): Bytes => {
  const out: Array<number> = []
  let rest = BigInt.asUintN(64, BigInt(value))
  do {
    const low = Number(rest & 127n)
    rest >>= 7n
    out.push(rest > 0n ? low | 128 : low)
  } while (rest > 0n)
  return Uint8Array.from(out)
}

const concat = (...parts: ReadonlyArray<Bytes>): Bytes => {
  const out = new Uint8Array(parts.reduce((sum, p) => sum + p.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

const integer = (field: number, value: number | bigint): Bytes => concat(varint(field << 3), varint(value))
const float = (field: number, value: number): Bytes =>
  concat(varint((field << 3) | 5), new Uint8Array(Float32Array.of(value).buffer))
const bytes = (field: number, value: Bytes | string): Bytes => {
  const data = typeof value === "string" ? text.encode(value) : value
  return concat(varint((field << 3) | 2), varint(data.length), data)
}

export type Dtype = "f32" | "i32" | "i64"
const code: Record<Dtype, number> = { f32: 1, i32: 6, i64: 7 }

/** A graph's input or output; a dimension is a number or the name of one that varies. */
export interface Value {
  readonly name: string
  readonly dtype: Dtype
  readonly dims: ReadonlyArray<number | string>
}

const valueInfo = ({ name, dtype, dims }: Value): Bytes => {
  const shape = concat(...dims.map((d) => bytes(1, typeof d === "number" ? integer(1, d) : bytes(2, d))))
  return concat(bytes(1, name), bytes(2, bytes(1, concat(integer(1, code[dtype]), bytes(2, shape)))))
}

/** `ints` are lists, `numbers` single integers, `floats` single floats. */
export interface Attributes {
  readonly numbers?: Readonly<Record<string, number>>
  readonly floats?: Readonly<Record<string, number>>
  readonly ints?: Readonly<Record<string, ReadonlyArray<number>>>
}

const attribute = (name: string, type: number, value: Bytes): Bytes =>
  bytes(5, concat(bytes(1, name), value, integer(20, type)))

export class Graph {
  readonly parts: Array<Bytes> = []

  /** Adds a node; "" stands for an input or output left out. Returns its first output. */
  node(
    op: string,
    inputs: ReadonlyArray<string>,
    outputs: ReadonlyArray<string>,
    attributes: Attributes = {},
    domain = ""
  ): string {
    const first = outputs[0] ?? ""
    this.parts.push(
      bytes(
        1,
        concat(
          ...inputs.map((name) => bytes(1, name)),
          ...outputs.map((name) => bytes(2, name)),
          bytes(3, first),
          bytes(4, op),
          ...Object.entries(attributes.numbers ?? {}).map(([k, v]) => attribute(k, 2, integer(3, v))),
          ...Object.entries(attributes.floats ?? {}).map(([k, v]) => attribute(k, 1, float(2, v))),
          ...Object.entries(attributes.ints ?? {}).map(([k, v]) =>
            attribute(k, 7, concat(...v.map((x) => integer(8, x))))
          ),
          ...(domain === "" ? [] : [bytes(7, domain)])
        )
      )
    )
    return first
  }

  /** A constant of the graph. */
  constant(name: string, dims: ReadonlyArray<number>, data: Float32Array | Int32Array | BigInt64Array): string {
    const dtype = data instanceof Float32Array ? code.f32 : data instanceof Int32Array ? code.i32 : code.i64
    const raw = new Uint8Array(data.byteLength)
    raw.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
    this.parts.push(
      bytes(5, concat(...dims.map((d) => integer(1, d)), integer(2, dtype), bytes(8, name), bytes(9, raw)))
    )
    return name
  }

  input(value: Value): string {
    this.parts.push(bytes(11, valueInfo(value)))
    return value.name
  }

  output(value: Value): string {
    this.parts.push(bytes(12, valueInfo(value)))
    return value.name
  }

  /** The file: IR version 10, opset 21 and the runtime's own operators. */
  encode(): Bytes {
    const opset = (domain: string, version: number) => bytes(8, concat(bytes(1, domain), integer(2, version)))
    return concat(
      integer(1, 10),
      bytes(2, "srcode bench"),
      bytes(7, concat(...this.parts, bytes(2, "bench"))),
      opset("", 21),
      opset("com.microsoft", 1)
    )
  }
}
