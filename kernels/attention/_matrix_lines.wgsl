  // The lines (row, head of one kv head) of the tile.
  let group = wg.y;
  let shared_by = p.heads / p.kv_heads;
  let first_pair = (nwg.x - 1u - wg.x) * OWNED; // the longest key ranges first
  let last_pair = min(first_pair + OWNED, p.rows * shared_by) - 1u;
  let last_row = last_pair / shared_by;
