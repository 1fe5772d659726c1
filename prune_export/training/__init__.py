"""Pruning while training: recipes, methods that put masks on a network, and the Trainer that runs them."""
