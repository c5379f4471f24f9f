// Part of the packed kernels: the lanes of a subgroup are neighbours that walk through the same keys (lines). head_dim = SG * PARTS.
enable subgroups;
requires immediate_address_space;

const SG = 8u; //@const
const PARTS = 3u; //@const

//@include attention/_params.wgsl
