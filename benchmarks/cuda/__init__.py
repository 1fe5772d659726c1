"""The measurement on a GPU, prepared: minutes of a machine without network are enough for all that needs one."""
