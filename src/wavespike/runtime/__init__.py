"""Sessions that outlive a call: streaming, long files, export."""
