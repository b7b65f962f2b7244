"""Presets (data, not code), saving and loading of checkpoints, importers for the originals' formats."""
