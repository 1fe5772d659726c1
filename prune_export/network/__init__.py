"""Networks that run: checkpoints, their slim form, and exported models under one interface."""
