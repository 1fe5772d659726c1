"""Side-by-side speed, size and memory: every row in a process of its own, rounds alternating between them."""
