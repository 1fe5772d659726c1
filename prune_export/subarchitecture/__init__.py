"""Subarchitecture extraction: spaces of shapes, the W-coefficient, the published algorithm, and networks of a shape."""
