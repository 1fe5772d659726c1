"""The tasks' official metrics, and answers decoded as in the official code."""
