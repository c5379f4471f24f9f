  // Which head of which row i is: queries first, then keys.
  let turned = p.heads + p.kv_heads;
  if (i >= p.rows * turned) { return; }
  let row = i / turned;
  let head = i % turned;
  let half = p.head_dim / 2u;
