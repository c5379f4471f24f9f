// register.wgsl over 16-bit floats with sums in f32: a from pack.wgsl, b rounded to 16 bits on its way into the tile. NT and NN.
enable f16;
//@include matmul/_register.wgsl
//@include matmul/_register_half.wgsl
//@include weight/_f32_octet.wgsl
