"""Slim PyTorch networks: what the surgeon leaves, as a module that can be saved, loaded and trained on."""
