"""One suite for each protocol of the core; every implementation runs it."""
