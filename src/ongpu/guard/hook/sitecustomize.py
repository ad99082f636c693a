"""Start-up file of the folder that ``ongpu run`` puts first on a child's ``PYTHONPATH``.

Contract: run by any Python from 3.9 on, before the program. It arms ``ongpu_hook`` when the variable
``ONGPU_HOOK_DIR`` names a folder, then runs the ``sitecustomize`` that Python would have found without us, in
its own module, with its own errors. It imports nothing of ongpu and nothing that the program might not want.
"""

# ruff: noqa: PLC0415 - imports wait until they are needed: this runs at the start of every Python of the tree

import sys


def _arm() -> None:
    import os

    folder = os.environ.get("ONGPU_HOOK_DIR")
    if not folder:
        return
    try:
        steps = os.environ.get("ONGPU_HOOK_TRACE")
        __import__("ongpu_hook").arm(folder, int(steps) if steps else None)
    except Exception:  # noqa: BLE001 - a witness never breaks the program it watches
        try:
            with open(os.path.join(folder, f"unarmed-{os.getpid()}.jsonl"), "a", encoding="utf-8") as out:  # noqa: PTH118, PTH123 - start-up: no pathlib
                out.write('{"record": "error", "n": 0, "pid": %d, "where": "arm"}\n' % os.getpid())  # noqa: UP031 - see above
        except OSError:
            pass


def _hand_on() -> None:
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = __file__.rpartition("/")[0] or __file__.rpartition("\\")[0]
    rest = [entry for entry in sys.path if entry.rstrip("/\\") != here.rstrip("/\\")]
    spec = PathFinder.find_spec("sitecustomize", rest)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_arm()
_hand_on()
