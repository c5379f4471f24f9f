// nt_subgroup.wgsl for fewer rows than lanes (decoding): each lane loads one element of a row of `a` and hands it to the others by broadcast. Adds in the
// same order, so a row's bits do not depend on which of the two took it. K and K2 must be multiples of SG.
//@include matmul/_nt_subgroup_few.wgsl
//@include weight/_f32.wgsl
