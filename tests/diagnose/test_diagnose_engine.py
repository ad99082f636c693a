"""The engine: text handling, and that rules fire on what they were made for."""

import codecs
import os
import subprocess
import sys

import pytest

from ongpu.catalog.causes import Rule, load_causes, parse_causes
from ongpu.diagnose import Sure, diagnose
from ongpu.diagnose.match import KINDS_LOOKED_AT
from ongpu.diagnose.text import blocks, clean
from ongpu.domain.verdict import Cause

_LINE = "AssertionError: Torch not compiled with CUDA enabled"


@pytest.mark.parametrize("rule", load_causes().rules, ids=lambda rule: rule.id)
def test_every_rule_has_a_source_and_a_place(rule: Rule) -> None:
    assert rule.source
    assert rule.place


@pytest.mark.parametrize(
    "data",
    [
        f"first\nsecond\n{_LINE}\n".encode(),
        f"first\r\nsecond\r\n{_LINE}\r\n".encode(),
        codecs.BOM_UTF16_LE + f"first\r\nsecond\r\n{_LINE}\r\n".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + f"first\r\nsecond\r\n{_LINE}\r\n".encode("utf-16-be"),
        f"first\r\n上海\r\n{_LINE}\r\n".encode("utf-16"),
        f"first\r\nsecond\r\n{_LINE}\r\n".encode("utf-16-le"),
        b"first\nsecond\n\x1b[31;1mAssertionError\x1b[0m: Torch not \x1b[1mcompiled\x1b[22m with CUDA enabled",
        f"first 1%|#  |\rfirst 2%|## |\rfirst\nsecond\n 99%|####|\r{_LINE}".encode(),
        f"fi\x00rst\nsec\x00ond\n{_LINE}".encode(),
        f"\u00e9\nsecond\n{_LINE}".encode("latin-1"),
    ],
)
def test_text_of_every_make_gives_the_same_finding(data: bytes) -> None:
    for parts in (data, [data[i : i + 7] for i in range(0, len(data), 7)]):
        found = diagnose(parts)
        assert found.cause is Cause.CPU_ONLY_TORCH
        assert [(one.line, one.text) for one in found.findings] == [(3, _LINE)]


def test_an_empty_log_is_undetermined_with_a_question() -> None:
    found = diagnose(b"")
    assert (found.cause, found.sure) == (Cause.UNDETERMINED, Sure.UNDETERMINED)
    assert found.question


def test_line_numbers_hold_over_block_borders() -> None:
    data = b"x" * 70 + b"\n"
    data = data * 40_000 + _LINE.encode() + b"\n"
    assert diagnose(data).findings[0].line == 40_001


def test_a_line_without_an_end_is_cut_not_kept() -> None:
    data = (b"\rprogress %d" * 1) * 300_000 + b"\n" + _LINE.encode()
    found = diagnose([data])
    assert found.findings[0].line == 2
    longest = max(sum(map(len, block.pieces)) for block in blocks([data]))
    assert longest < 4_000_000


def test_clean_removes_escapes_only() -> None:
    assert clean(b"\x1b[38;5;196mred\x1b[0m \x1b]0;title\x07plain \x1b(Bend") == b"red plain end"


def test_a_rule_that_misses_its_own_sample_is_refused() -> None:
    good = '[[rule]]\nid = "one"\nmatch = [["abc"]]\nmade_for = "xyz"\nsource = "s"\nbasis = "inferred"\nplace = "p"\n'
    causes = "".join(f'[[cause]]\nid = "{cause.value}"\nmeaning = "m"\nnext_step = "n"\n' for cause in Cause)
    with pytest.raises(ValueError, match="one: does not match"):
        parse_causes((causes + good).encode())


def test_a_log_of_nothing_but_new_kinds_is_read_at_both_ends_and_says_so() -> None:
    rules = load_causes().rules
    words = sorted({word for rule in rules for group in rule.match for one in group for word in one.split()})
    count = len(words)
    lines = [f"{words[i % count]} {words[i // count]} {words[i % 97]}" for i in range(KINDS_LOOKED_AT * 2)]
    found = diagnose("\n".join(["torch 2.5.1+cu124", *lines, _LINE]).encode())
    assert found.unread_lines > 0
    assert found.sure is not Sure.DECISIVE
    assert found.question
    assert "2.5.1+cu124" in found.facts.torch_versions
    seen = {one.cause for one in found.rejected} | {found.cause}
    assert Cause.CPU_ONLY_TORCH in seen


_TOO_MANY_KINDS = """
import sys
from ongpu.catalog.causes import load_causes
from ongpu.diagnose import diagnose
words = sorted({word for rule in load_causes().rules for group in rule.match for one in group for word in one.split()})
lines = [f"{words[i % len(words)]} {words[i // len(words)]} {words[i % 97]}" for i in range(24000)]
sys.stdout.write(repr(diagnose("\\n".join(["torch 2.5.1+cu124", *lines]).encode())))
"""


@pytest.mark.process
def test_the_answer_does_not_hang_on_how_python_hashes() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", _TOO_MANY_KINDS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "3", "6")
    }
    assert len(said) == 1 and b"unread_lines=0" not in said.pop()


def test_names_and_addresses_do_not_make_new_kinds() -> None:
    lines = [f"frame #{i}: c10::cuda::Error + 0x{i * 7919:09x} (id {i * 104729:x})" for i in range(KINDS_LOOKED_AT * 3)]
    found = diagnose("\n".join([*lines, _LINE]).encode())
    assert found.unread_lines == 0
    assert found.cause is Cause.CPU_ONLY_TORCH


_STEPS = "step 1 loss 2.0\nstep 2 loss 1.9\nstep 3 loss 1.8\n"


@pytest.mark.parametrize("opening", ["GPU available: True (cuda), used: True\n", "CUDA available: True\n", _STEPS])
@pytest.mark.parametrize(
    "trouble",
    [
        "the loom failed to rethread",
        "loss has diverged",
        "grad_norm: nan",
        "worker 3 is not responding",
        "job evicted",
        "Out of memory",
        "KeyboardInterrupt",
        "srun: Job step aborted",
        "zsh: killed     python train.py",
        "Traceback (most recent call last):",
        "frame #4: c10d::TCPStore::wait(std::chrono::duration<long>) + 0x31 (0x7f00 in libtorch_cpu.so)",
        '  File "train.py", line 12, in main',
        "the host has no GPU: CUDA available: False",
    ],
)
def test_nothing_is_healthy_with_trouble_after_the_last_work(opening: str, trouble: str) -> None:
    assert diagnose(f"{opening}{trouble}\n".encode()).cause is not Cause.HEALTHY
    later = diagnose(f"{opening}{trouble}\nUsing device: cuda\n".encode())
    assert later.cause is not Cause.HEALTHY


def test_a_device_that_is_named_is_no_work() -> None:
    found = diagnose(b"Using device: cuda\nloading train data\n")
    assert found.cause is Cause.UNDETERMINED
    assert found.question and "next" in found.question
    assert Cause.HEALTHY in {one.cause for one in found.rejected}
    assert diagnose(f"Using device: cuda\n{_STEPS}".encode()).cause is Cause.HEALTHY


@pytest.mark.parametrize("cause", sorted(set(Cause) - {Cause.HEALTHY, Cause.UNDETERMINED}))
def test_the_cause_that_our_own_programs_name_is_the_answer(cause: Cause) -> None:
    others = f"PyTorch version: 2.14.1+cpu\n{_LINE}\nNVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.\n"
    for stopped in (f"error [{cause}]: why.", f"Blocked in phase train, cause: {cause}"):
        found = diagnose(f"{others}{stopped}\nnext: what to do.\n".encode())
        assert (found.cause, found.sure) == (cause, Sure.DECISIVE)
