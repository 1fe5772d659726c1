"""Files and folders of the user: read within limits, written in one step, never lost."""
