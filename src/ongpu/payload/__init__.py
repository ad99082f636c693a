"""Sealed scripts run by the target environment's Python: files in, files out, nothing of ongpu imported."""
