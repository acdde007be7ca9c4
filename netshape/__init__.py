"""Network shaping by numbers: rates, latencies and virtual clocks. It knows no cluster and can be used alone."""
