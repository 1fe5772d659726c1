"""The folders and files that this program writes, and what they may replace."""
