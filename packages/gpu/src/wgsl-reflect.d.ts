/** The package's own entry point is not loadable in Node; its module file is, but carries no types. */
declare module "wgsl_reflect/wgsl_reflect.module.js" {
  export class WgslReflect {
    constructor(source: string)
    readonly entry: { readonly compute: ReadonlyArray<{ readonly name: string }> }
    readonly storage: ReadonlyArray<{ readonly name: string; readonly binding: number }>
    readonly structs: ReadonlyArray<{
      readonly name: string
      readonly members: ReadonlyArray<{ name: string; offset: number; type: { name: string } }>
    }>
  }
}
