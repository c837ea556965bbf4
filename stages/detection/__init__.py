"""Detection: where sources are."""
