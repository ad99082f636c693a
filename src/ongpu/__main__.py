"""``python -m ongpu`` is the command ``ongpu``."""

from ongpu.cli import main

main()
