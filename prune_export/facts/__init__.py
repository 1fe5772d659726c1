"""Facts that every stage uses: plans, records, summaries, formats, the machine, and the names of files."""
