"""Frozen values and pure rules. Standard library only; no IO."""
