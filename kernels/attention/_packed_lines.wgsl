  // A lane's (row, head of one kv head) pair; past the end the last pair again.
  let group = wg.y;
  let shared_by = p.heads / p.kv_heads;
  let pairs = p.rows * shared_by;
  let first_row = (wg.x * SG) / shared_by;
  let last_row = (min(wg.x * SG + SG, pairs) - 1u) / shared_by;
  let pair = min(wg.x * SG + lane, pairs - 1u);
  let row = pair / shared_by;
  let i = row * p.heads + group * shared_by + pair % shared_by;
  let at = i * (SG * PARTS);
