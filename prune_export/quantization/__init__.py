"""What int8 needs to know before the graph is written: ranges of activations, and which linear maps lose too much."""
