"""Reports to terminal, JSON, README and HTML."""
