"""Speed, size and memory side by side: one process per row, and rounds that alternate between them."""
