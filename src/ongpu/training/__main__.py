"""``python -m ongpu.training`` is the reference training's command line."""

import sys

from ongpu.training.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
