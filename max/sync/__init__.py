"""What a sync does."""
