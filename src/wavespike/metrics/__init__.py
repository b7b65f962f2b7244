"""Quality, pitch and speed, each with its reference."""
