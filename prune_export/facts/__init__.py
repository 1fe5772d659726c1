"""What every stage knows: plans, records, summaries, and the names of files."""
