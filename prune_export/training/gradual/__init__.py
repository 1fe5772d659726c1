"""One-shot pruning in steps, with training between them."""
