"""Facts as data, each row with its source; checked for consistency on load."""
