"""The tasks' official metrics, and answers decoded as the official code does."""
