  // A lane's place in the tile, and the quarter of a line that is its share of the softmax.
  let tx = li % TX;
  let ty = li / TX;
  let line = li / 4u;
  let quarter = li % 4u;
  let group = wg.y;
  let shared_by = p.heads / p.kv_heads;
