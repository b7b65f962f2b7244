"""Data, losses, discriminators, one task a way of learning."""
