  // The workgroup's (row, head) and its query.
  let i = wg.y * nwg.x + wg.x;
  if (i >= p.rows * p.heads) { return; }
  let row = i / p.heads;
  let group = (i % p.heads) / (p.heads / p.kv_heads);
  if (li < p.quads) { query[li] = q[i * p.quads + li] * p.scale; }
