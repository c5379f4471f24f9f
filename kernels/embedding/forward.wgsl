// out[i,:] = table[id[i],:]: token embedding, and the selection of the rows that carry loss.
// A workgroup takes `span` columns of one row.
//@include embedding/_forward.wgsl
//@include weight/_f32_scalar.wgsl
