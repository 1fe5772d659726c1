"""Learning from a teacher: its logits, its hidden states; students of fewer layers."""
