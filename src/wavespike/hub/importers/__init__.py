"""Readers of the original systems' checkpoints: one module a system, with `recognises(path) -> bool`."""
