"""The surgeon: removes what a plan drops, exactly. Pure functions on the parts of an Encoder."""

from prune_export.surgeon.operation import operate

__all__ = ["operate"]
