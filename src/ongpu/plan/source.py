"""The recipe for building PyTorch from source: written out, never run unless somebody asks."""

from __future__ import annotations

from ongpu.catalog import Catalog
from ongpu.domain.arch import Fit, best_fit
from ongpu.domain.build import TorchBuild
from ongpu.plan.facts import Facts
from ongpu.plan.request import nearest_python, version


def model_build(facts: Facts, *, catalog: Catalog) -> TorchBuild | None:
    """The newest published build, of any platform, with code for every GPU: what a source build can imitate.

    That it exists is the only evidence that this release compiles for these GPUs with that toolkit. ``None``
    where there is none, or where the driver cannot run the toolkit's programs.
    """
    limit = facts.driver_cuda.major if facts.driver_cuda is not None else 99
    fitting = [
        one
        for one in catalog.builds
        if one.channel == "stable" and one.runtime is not None and one.publication != "unverified"
        if one.runtime.major <= limit
        if all(best_fit(one.targets, each, runtime=one.runtime) is Fit.NATIVE for each in facts.capabilities)
    ]
    return max(fitting, key=lambda one: (version(one.torch), one.cuda_tag), default=None)


def recipe(facts: Facts, *, catalog: Catalog) -> tuple[str, ...]:
    """The lines of a shell script that builds the newest torch that fits; empty where none is known to."""
    model = model_build(facts, catalog=catalog)
    if model is None or model.runtime is None or facts.machine.os != "linux":
        return ()
    toolkit, torch = model.runtime, model.torch
    archs = ";".join(str(one) for one in sorted(facts.capabilities))
    python = facts.python if facts.python in model.pythons else nearest_python(facts.python, model.pythons)
    python = python.removesuffix("t")
    return (
        "#!/bin/sh",
        f"# Published for {model.os} on {model.arch} as {model.label}, not for this machine.",
        f"# PyTorch {torch} from source for compute capability {archs}, CUDA toolkit {toolkit}.",
        "# Expect hours (some 1 to 4 on 16 cores, far more on few), 2 to 4 GB of memory for each parallel job and",
        "# 40 GB of disk. These figures are general knowledge: nothing of this recipe was run by ongpu.",
        "# Needed first: git, a C++17 compiler the toolkit accepts, cmake 3.27+, ninja,",
        f"# the CUDA toolkit {toolkit} (nvcc --version must say so) and cuDNN for it.",
        "set -eu",
        f"python{python} -m venv .venv-source",
        ". .venv-source/bin/activate",
        f"git clone --depth 1 --branch v{torch} --recurse-submodules --shallow-submodules "
        "https://github.com/pytorch/pytorch pytorch-source",
        "cd pytorch-source",
        "pip install -r requirements.txt",
        f'export CUDA_HOME="${{CUDA_HOME:-/usr/local/cuda-{toolkit}}}"',
        f'export TORCH_CUDA_ARCH_LIST="{archs}"',
        "export USE_CUDA=1 USE_CUDNN=1 BUILD_TEST=0",
        'export MAX_JOBS="${MAX_JOBS:-4}"  # raise it as far as the memory allows',
        "pip install --no-build-isolation --verbose .",
        "cd ..",
        'python -c "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_arch_list())"',
    )
