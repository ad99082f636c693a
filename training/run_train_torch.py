"""The milestone's entry point: ``python training/run_train_torch.py --config ... --device cuda --max_steps 50``.

The ``src`` folder beside this one comes first on the path whether or not an ongpu is installed: a checkout runs its
own code, not that of an older installation, and the Python that runs it needs torch but not ongpu.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from ongpu.training.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
