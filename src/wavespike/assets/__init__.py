"""Things that come with the package: `sample.flac`, synthetic speech at 24 kHz (licence and making: README.md beside it)."""

from pathlib import Path

SAMPLE = Path(__file__).parent / "sample.flac"
