          // Adds what the staged chunk holds of the products of the lane's four lines with its PER others.
          for (var d = 0u; d < depth; d++) {
//@for i 0 4
            let a$i = left[(4u * ty + $iu) * STRIDE + d];
//@end
//@for c 0 PER
            let b$c = right[(tx + $cu * TX) * STRIDE + d];
//@for i 0 4
            g$i_$c += dot(a$i, b$c);
//@end
//@end
          }
