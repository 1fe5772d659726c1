"""Slim PyTorch networks: the surgeon's result as a module that can be saved, loaded and trained further."""
