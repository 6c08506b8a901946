"""Finding, configuring and connecting installations."""
