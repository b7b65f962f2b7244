"""Figures a person would rather see than numbers."""
