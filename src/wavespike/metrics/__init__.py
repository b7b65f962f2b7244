"""Scores of audio against audio and of models against the clock: quality, pitch, speed, and the panel that runs them over many files.

`panel.Panel` is the door; `panel.METRICS` says of every score its paper, its own sampling rate, its unit, which way is better and which package it needs.
"""
