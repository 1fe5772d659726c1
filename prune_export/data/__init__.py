"""Data sets: readers for what people have on disk, features for what networks take, batches without waste."""
