"""The reference training pipeline: imports torch, and nothing of ongpu but ``domain`` and ``errors``."""
