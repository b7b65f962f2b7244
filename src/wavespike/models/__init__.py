"""One file a paper, its configuration beside it, and the registry of model types."""
