"""One-shot structured pruning: scores, selection under a budget, rearrangement, reconstruction."""
