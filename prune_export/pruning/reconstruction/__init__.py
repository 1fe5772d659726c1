"""Weights that stay are refitted so that the pruned network's hidden states stay close to the dense one's."""
