"""Figures a person would rather see than numbers. Needs the extra `view` (matplotlib)."""
