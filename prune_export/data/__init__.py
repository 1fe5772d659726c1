"""Data sets: readers of users' files, features for networks, and batches with little padding."""
