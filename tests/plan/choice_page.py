"""Writes ``docs/choice.md``: what the planner answers, beside what other tools pick.

Run it from the repository root as ``python -m tests.plan.choice_page``; a test holds the page to it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ongpu import catalog
from ongpu.plan import described, judge_command
from tests.plan.plan_answers import answer_of, decide, decide_told
from tests.plan.plan_rules import expected
from tests.plan.plan_scenarios import TOLD, scenarios

PAGE = Path("docs/choice.md")
_SHORT = {"driver-broken": "blocked: driver-broken", "source": "build from source"}

_INDEX = "https://download.pytorch.org/whl"
ADVICE = (
    (f"pip install --pre torch torchvision torchaudio --index-url {_INDEX}/nightly/cu124", "RTX 5090", "linux", ""),
    (f"pip install torch --index-url {_INDEX}/cu126", "RTX 5090", "linux", ""),
    (f"pip install torch==2.15.0 --index-url {_INDEX}/cu126", "GTX 1080 Ti", "linux", "*hint of 2.15.0*"),
    (f"pip install torch==2.14.1 --index-url {_INDEX}/cu134", "RTX 5090", "linux", "*hint of 2.14.1*"),
    (f"pip install torch==2.11.0 --index-url {_INDEX}/cu128", "V100", "linux", "*hint of 2.11.0*"),
    (f"pip install torch==2.13.0 --index-url {_INDEX}/cu129", "RTX 5090", "windows", "*hint of 2.13.0*"),
    ("pip install torch", "RTX 3060", "windows", ""),
    ("uv pip install torch --torch-backend=auto", "V100", "linux", ""),
    (f"pip install torch --extra-index-url {_INDEX}/cu126", "V100", "linux", ""),
    (f"pip install torch==2.7.1 --index-url {_INDEX}/cu128", "GTX 1080 Ti", "linux", ""),
    (f"pip install torch==2.7.1 --index-url {_INDEX}/cu128", "GTX 1080 Ti", "windows", ""),
    ("conda install pytorch pytorch-cuda=12.4 -c pytorch -c nvidia", "RTX 5090", "linux", ""),
    ("conda install pytorch -c conda-forge", "RTX 5090", "linux", ""),
)

_INTRO = """# The choice: which PyTorch build for which machine

This page is generated (`python -m tests.plan.choice_page`) and held to the planner by a test. The facts are those of
`src/ongpu/catalog/*.csv`, each row with its source; newest reading of a build: {date}. Nothing here was run on the
GPUs named: a plan says what must run by the rules, and `ongpu verify` shows whether it does.

How a build is chosen:

1. The machine first: is there a GPU, does the driver branch know it (not yet, still, no longer), and on Linux, are the
   kernel modules of the right flavor. No choice of a build can mend these.
2. Every published build for the system and CPU architecture is judged by Python, glibc, the requirement on torch,
   machine code for **every** GPU, the driver against the CUDA runtime (minor-version compatibility, which does not
   cover PTX) and whether it is known to be published. The worst axis decides.
3. Of those that fit: machine code before code the driver has to compile, stable before nightly, the newest torch, then
   PyPI's own variant, then the higher CUDA. Never a CPU build.
4. Where none fits, the smallest change that would help names the cause: another Python, a newer system, a newer
   driver, another requirement. A build from source is offered only where no published build of the platform has code
   for the GPU.
"""


_KEPT = """
## How the facts are kept

| table in `src/ongpu/catalog/` | holds |
|---|---|
| `builds.csv` | a published build a line: release, CUDA tag, system, Pythons, code targets, and how that is known |
| `gpus.csv` `generations.csv` | models with their compute capability; what the driver asks of each capability |
| `branches.csv` `toolkits.csv` | driver branches and the CUDA version they answer; driver floors by toolkit |
| `companions.csv` `glibc.csv` | torchvision and torchaudio with the torch they pair with; the glibc of wheels |
| `retired.csv` | index folders that get no new builds |
| `machines/*.json` | described machines, for planning and rehearsal; nothing in them was observed |

Every row has a source and the date of the reading. On load the tables are compared with each other, and a row that
contradicts another or cannot be true (CUDA 12 after torch 2.14, Blackwell code from a toolkit before 12.8, a Windows
build on PyPI with CUDA) is refused by file and line. `evidence` is `binary` (read from the wheel), `script` (the
release's build scripts and tables), `report` (what users print) or `inferred`.

A new release is read from its wheels: torch writes the targets it was compiled for into `libtorch_python`, and a wheel
on a server can be read in parts, some 15 MB of half a gigabyte."""


def page() -> str:
    """The text of the page."""
    lines = [_INTRO.format(date=catalog.load().date), *_told(), *_advice(), *_grid(), *_limits(), _KEPT]
    return "\n".join(lines) + "\n"


def _told() -> list[str]:
    right = sum(answer_of(decide_told(one)) == one.answer for one in TOLD)
    lines = [
        "## Written-down scenarios, and what other tools pick",
        "",
        f"ongpu is right in {right} of {len(TOLD)}. Linux x86-64 and Python 3.11 unless said. The picks of others were",
        "run or read on 2026-11-22: uv 0.13.9 `--torch-backend=auto`, light-the-torch (ltt) 0.8.1, env-doctor 0.3.5,",
        "rigsolve 1.0.0, gpu-doctor 1.0.0, gpu-installer 4.5.2, gaff-gpu 0.1.0, comfy-env 0.4.46; uv and ltt against a",
        "stand-in for PyTorch's index. ✗: does not work on that machine. An empty cell: not asked.",
        "",
        "| # | machine | right answer | ongpu | other tools |",
        "|---|---|---|---|---|",
    ]
    for one in TOLD:
        lines.append(
            f"| {one.number} | {one.words} | {_say(one.answer)} | {_say(answer_of(decide_told(one)))} | {one.peers} |"
        )
    return [
        *lines,
        "",
        "Three more of that survey are about reading the machine, not about builds: a driver/library mismatch after",
        "an update (`driver-broken`, reboot), `nvidia-smi` that finds no devices (`driver-broken` where a GPU is on",
        "the bus, else `no-gpu-visible`) and a CUDA version where a driver is asked (refused, status 2). Other tools",
        "install a CPU build in each. They are in `tests/plan/test_plan_machine.py`.",
        "",
    ]


def _advice() -> list[str]:
    lines = [
        "## Advice, judged by `ongpu plan --check`",
        "",
        "Driver 580 (Windows: 581) and Python 3.11. The first line is the command of the milestone this project began",
        "with; those marked *hint* are what torch itself prints.",
        "",
        "| command | on | works | why |",
        "|---|---|---|---|",
    ]
    for command, gpu, system, note in ADVICE:
        driver = "581.29" if system == "windows" else "580.95.05"
        machine = described(catalog=catalog.load(), gpus=[gpu], os=system, driver=driver, python="3.11")
        report = judge_command(command, machine, catalog=catalog.load())
        works = {True: "yes", False: "no", None: "unknown"}[report.works]
        lines.append(f"| `{command}` {note} | {gpu}, {system} | {works} | {'; '.join(report.reasons)} |")
    return [*lines, ""]


def _grid() -> list[str]:
    cases = scenarios()
    rows = [(one, expected(one), answer_of(decide(one))) for one in cases]
    right = sum(rule == ours for _, rule, ours in rows)
    lines = [
        "## The grid",
        "",
        f"{len(rows)} machines, each answered by rules written by hand in `tests/plan/plan_rules.py` (from the",
        f"research tables, without the catalog and without the planner) and by the planner: they agree in {right}.",
        "",
        "| answer by the rules | cases | planner agrees |",
        "|---|---|---|",
    ]
    by_answer = Counter(rule for _, rule, _ in rows)
    agree = Counter(rule for _, rule, ours in rows if rule == ours)
    lines += [f"| {_say(rule)} | {count} | {agree[rule]} |" for rule, count in by_answer.most_common()]
    lines += [
        "",
        "<details><summary>Every case</summary>",
        "",
        "| GPUs | driver | system | Python | torch | glibc | rules | planner |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one, rule, ours in rows:
        names = " + ".join(name for name, _ in one.gpus)
        glibc = one.glibc if one.os == "linux" else ""
        cells = (
            names,
            one.driver,
            f"{one.os} {one.arch}",
            one.python,
            one.spec or "any",
            glibc,
            _say(rule),
            _say(ours),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "</details>", ""]


def _limits() -> list[str]:
    builds = catalog.load().builds
    how = Counter(one.evidence for one in builds if one.cuda_tag != "cpu")
    unknown = [one for one in builds if one.cuda_tag != "cpu" and not one.targets]
    unverified = [one for one in builds if one.publication == "unverified"]
    return [
        "## What these answers rest on",
        "",
        f"Of {sum(how.values())} CUDA builds in the catalog, the code list of {how['binary']} was read from a binary,",
        f"of {how['script']} from the release's build scripts and tables, of {how['report']} from user reports, and of",
        f"{how['inferred']} inferred or unknown. Only PyPI was opened; PyTorch's own index was not.",
        "",
        "- The code list is unknown, so the planner never picks it: "
        + ", ".join(f"{one.label} ({one.os})" for one in unknown)
        + ".",
        "- Whether it was published is not confirmed, so the planner never picks it: "
        + ", ".join(f"{one.label} ({one.os} {one.arch})" for one in unverified)
        + ".",
        "- Library limits (cuBLAS, cuDNN, NCCL have code lists of their own) are not part of the choice.",
        "- The rules and the planner have one author and one set of research tables: agreement shows that the planner",
        "  does what the tables say, not that the tables are true.",
    ]


def _say(answer: str) -> str:
    if "+" in answer:
        return answer
    return _SHORT.get(answer, f"blocked: {answer}")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
