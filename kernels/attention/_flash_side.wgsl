        // The first side's products are whole: sums begin again for the second's.
        if (side == 0u) {
//@for i 0 4
//@for c 0 PER
          s$i_$c = g$i_$c;
          g$i_$c = 0.0;
//@end
//@end
        }
