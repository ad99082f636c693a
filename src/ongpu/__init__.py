"""ongpu: from an NVIDIA GPU in the machine to PyTorch training on it, proven.

Importing this package imports nothing else: no torch, no NVML, no terminal library.
"""

__version__ = "0.1.0"
