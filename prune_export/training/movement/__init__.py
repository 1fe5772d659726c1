"""Movement pruning (Sanh et al. 2020) in blocks (Lagunas et al. 2021)."""
