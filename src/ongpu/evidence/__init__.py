"""Journal, seal, redaction and the checker that trusts nothing."""
