"""Lines to add where an environment is made by something else than ongpu: a uv project, an image, a notebook. Pure.

uv's project commands (``uv run``, ``uv sync``, ``uv lock``) make the environment from the project's own files and
take away whatever was installed by hand; so the decision must be written into those files.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from typing import Final

from ongpu.domain.build import Decision

_PYPI: Final = "https://pypi.org/simple"
_FAMILY: Final = ("torch", "torchaudio", "torchvision")


def torch_pin(decision: Decision) -> str:
    """The requirement of the decided torch: with its label where an index of its own carries it."""
    label = f"+{decision.cuda_tag}" if decision.index_url is not None else ""
    return f"torch=={str(decision.torch).partition('+')[0]}{label}"


def uv_project_lines(decision: Decision, *, excluded: Iterable[str] = ()) -> str:
    """What to add to a uv project's ``pyproject.toml``, so that ``uv sync`` and ``uv run`` keep the decided torch.

    Constraints carry the pin to packages that want torch indirectly, and its index with it: a constrained name
    follows ``[tool.uv.sources]`` even where the project does not list it itself (read from locks made by uv 0.13.9).

    :param excluded: names to leave out, for ``exclude-dependencies``.
    """
    # torch alone is pinned; what pairs with it is for the resolver, but from the same index.
    constraints = [torch_pin(decision), *(f"{one}>=0" for one in _FAMILY[1:])]
    lines = ["[tool.uv]", f"constraint-dependencies = {_array(constraints)}"]
    names = sorted(excluded)
    if names:
        lines.append(f"exclude-dependencies = {_array(names)}")
    if decision.index_url is not None:
        name = f"pytorch-{decision.cuda_tag}"
        lines += ["", "[tool.uv.sources]"]
        lines += [f'{one} = {{ index = "{name}" }}' for one in _FAMILY]
        lines += ["", "[[tool.uv.index]]", f'name = "{name}"', f'url = "{decision.index_url}"', "explicit = true"]
    return "\n".join(lines) + "\n"


def uv_project_notes(pyproject: str, lock: str | None, decision: Decision) -> tuple[str, ...]:
    """What a person must know whose project is driven by uv; nothing where it is not.

    :param pyproject: the text of ``pyproject.toml``.
    :param lock: the text of ``uv.lock``, where there is one.
    """
    if lock is None and "uv" not in tomllib.loads(pyproject).get("tool", {}):
        return ()
    notes = [
        "this is a uv project: uv run and uv sync work in .venv by its own lock, not in the environment made here; "
        "activate it and call python, or write the decision into pyproject.toml: `ongpu plan --lines uv` prints it"
    ]
    locked = _locked_torch(lock) if lock is not None else None
    if locked is not None:
        version, source = locked
        pin = torch_pin(decision).partition("==")[2]
        if version != pin:
            notes.append(
                f"its uv.lock has torch {version} from {source}, not {pin}: uv run and uv sync install that one"
            )
    return tuple(notes)


# [[package]]
# name = "torch"
# version = "2.14.1+cu126"
# source = { registry = "https://download.pytorch.org/whl/cu126" }
def _locked_torch(lock: str) -> tuple[str, str] | None:
    try:
        packages = tomllib.loads(lock).get("package", [])
    except tomllib.TOMLDecodeError:
        return None
    found = [one for one in packages if one.get("name") == "torch"]
    if len(found) != 1:  # one for each platform: which one would be taken is for uv to say
        return None
    source = found[0].get("source", {})
    return str(found[0].get("version", "?")), str(source.get("registry") or source.get("url") or source)


def dockerfile_lines(decision: Decision, *, python: str, project: str | None = None, extra: str | None = None) -> str:
    """Lines of a Dockerfile that carry the decided torch.

    torch's wheels bring the CUDA runtime, cuDNN and NCCL along, so the base needs glibc and Python only; the
    driver's own libraries are put in by the NVIDIA Container Toolkit when the container starts.

    :param python: ``3.12``.
    """
    pin = torch_pin(decision)
    index = f" --index-url {decision.index_url}" if decision.index_url is not None else ""
    lines = [
        f"FROM python:{python}-slim-bookworm",
        "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        "RUN python -m venv /venv",
        'ENV VIRTUAL_ENV=/venv PATH="/venv/bin:$PATH"',
        f"RUN pip install --no-cache-dir {pin}{index}",
    ]
    if project is not None:
        # Installed already and pinned, torch is left alone by what comes after.
        extras = f"[{extra}]" if extra else ""
        lines += [
            f"COPY {project} /project",
            f"RUN echo '{pin}' > /constraints.txt && pip install --no-cache-dir -c /constraints.txt '/project{extras}'",
        ]
    return "\n".join(lines) + "\n"


def notebook_lines(decision: Decision) -> str:
    """A cell that installs the decided torch into the kernel's own Python, and one that shows which that is."""
    index = f" --index-url {decision.index_url}" if decision.index_url is not None else ""
    return (
        f"%pip install {torch_pin(decision)}{index}\n"
        "# where it says 'No module named pip', begin the line with %uv pip instead\n"
        "# restart the kernel, then:\nimport sys; print(sys.executable)\n"
    )


def pixi_lines(decision: Decision) -> str:
    """What to add to ``pixi.toml``: torch as a PyPI dependency, from its own index."""
    pin = torch_pin(decision).partition("torch")[2]
    if decision.index_url is None:
        return f'[pypi-dependencies]\ntorch = "{pin}"\n'
    return f'[pypi-dependencies]\ntorch = {{ version = "{pin}", index = "{decision.index_url}" }}\n'


LINES: Final = ("uv", "pixi", "docker", "notebook")


def lines_for(place: str, decision: Decision, *, python: str) -> str:
    """The lines for one of :data:`LINES`."""
    match place:
        case "uv":
            return uv_project_lines(decision)
        case "pixi":
            return pixi_lines(decision)
        case "docker":
            return dockerfile_lines(decision, python=python)
        case _:
            return notebook_lines(decision)


def _array(values: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{one}"' for one in values) + "]"
