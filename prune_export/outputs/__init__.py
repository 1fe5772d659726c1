"""What this tool writes: each kind of folder, its files, and what may be replaced."""
