  // Where the head's projection, the norm's weight and the gradient stand; sums of x^2 and of w g x.
  let at = (row * (turned + p.kv_heads) + head) * p.head_dim;
  let query = head < p.heads;
  let w = select(p.head_dim, 0u, query);
  var src = (row * p.heads + head) * p.head_dim;
  if (!query) { src = (row * p.kv_heads + head - p.heads) * p.head_dim; }
  let turn = position[row] * p.head_dim;
  var square = 0.0;
  var dot = 0.0;
