"""When two GPU names mean the same model.

The rule, in order:

1. Case, punctuation, the vendor, trademark signs and filler words (``GPU``, ``Generation``, ``Edition``) do not
   count; glued spellings are taken apart (``RTX5090``, ``3050Ti``, ``5090D``). A brand (``GeForce``, ``Quadro``,
   ``Tesla``, ``Jetson``) counts only where *both* names have one.
2. What is left must be the same, word for word: ``RTX 5090`` is neither ``RTX 5090 D`` nor ``RTX 5090 Laptop GPU``.
3. One exception, since people type ``H100`` for what NVML calls ``NVIDIA H100 80GB HBM3``: where the expected name
   starts with a bare data-center model, form factor, memory size and memory kind may be left out. What *is*
   typed of them must be there: ``H100 PCIe`` is not an ``H100 NVL``. What the seen name does not mention (the
   SXM module of an H100) can be neither confirmed nor refuted: unknown.
4. Where both memory sizes are known and differ by more than an eighth, it is another model whatever the name
   says (a MIG slice, or a card with half the memory).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ongpu.domain.verdict import Outcome

BRANDS: Final = frozenset({"geforce", "quadro", "tesla", "jetson"})
_IGNORED: Final = frozenset({"nvidia", "corporation", "gpu", "graphics", "generation", "edition", "with", "design"})
_GLUED_FRONT: Final = re.compile(r"^(rtx|gtx|gt|mx)(\d.*)$")
_GLUED_BACK: Final = re.compile(r"^(\d{3,4})(ti|super|d)$")
_DATACENTER: Final = re.compile(r"^(?:[abhlkpv]|gb|gh)\d{1,3}[sxg]?$|^t4$")
_FORM: Final = re.compile(r"^(?:sxm\d?|pcie|nvl\d*|lc|ac|active|oam)$")
_SIZE: Final = re.compile(r"^(\d{1,3})(?:gb|g|gib)$")
_MEMORY_KIND: Final = re.compile(r"^hbm\d?e?$|^gddr\d?x?$")
_TOLERANCE: Final = 1 / 8
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class NameMatch:
    """Whether the GPU seen is the GPU expected, and why."""

    outcome: Outcome
    reason: str


def words(name: str) -> tuple[str, ...]:
    """The words of a model name that count, brand left out: ``("rtx", "5090", "d")``."""
    return tuple(word for word in _all_words(name) if word not in BRANDS)


def brand(name: str) -> str | None:
    """The brand in a name (``geforce``), or ``None``."""
    return next((word for word in _all_words(name) if word in BRANDS), None)


def same_model(
    expected: str,
    seen: str,
    *,
    expected_memory_bytes: int | None = None,
    seen_memory_bytes: int | None = None,
) -> NameMatch:
    """Whether ``seen`` (what NVML answers) is the model ``expected`` (what a person typed).

    :param expected_memory_bytes: the model's memory where a catalog knows it.
    :param seen_memory_bytes: the total that was read from the device.
    :returns: ``PROVEN`` the same model, ``REFUTED`` another one, ``UNKNOWN`` where a typed detail is one that
        the seen name does not state.
    """
    want, have = words(expected), words(seen)
    if not want:
        return _refuted(f"{expected!r} names no GPU model")
    if not have:
        return NameMatch(outcome=Outcome.UNKNOWN, reason=f"the device gives no model name ({seen!r})")
    if (wanted := brand(expected)) and (had := brand(seen)) and wanted != had:
        return _refuted(f"expected a {wanted} model, {expected!r}; the device is {seen!r}")
    match = _compare(want, have, expected=expected, seen=seen, seen_memory_bytes=seen_memory_bytes)
    if match.outcome is Outcome.REFUTED or expected_memory_bytes is None or seen_memory_bytes is None:
        return match
    if not _near(expected_memory_bytes, seen_memory_bytes):
        return _refuted(
            f"{seen!r} has {seen_memory_bytes / _GIB:.1f} GiB of memory, "
            f"a {expected!r} has {expected_memory_bytes / _GIB:.1f} GiB"
        )
    return match


def same_gpu(expected: str, *, name: str, uuid: str | None, memory_bytes: int | None) -> NameMatch:
    """Whether a device is the one ``expected``: a model as in :func:`same_model`, or one very GPU by its UUID."""
    if not expected.startswith(("GPU-", "MIG-")):
        return same_model(expected, name, seen_memory_bytes=memory_bytes)
    if uuid is None:
        return NameMatch(outcome=Outcome.UNKNOWN, reason="the device gives no UUID")
    if uuid.lower() == expected.lower():
        return NameMatch(outcome=Outcome.PROVEN, reason=f"the device is {uuid}, as expected")
    return _refuted(f"expected {expected}; the device is {uuid}")


def _compare(
    want: tuple[str, ...], have: tuple[str, ...], *, expected: str, seen: str, seen_memory_bytes: int | None
) -> NameMatch:
    if want == have:
        return NameMatch(outcome=Outcome.PROVEN, reason=f"the device is {seen!r}, as expected")
    different = _refuted(f"expected {expected!r}; the device is {seen!r}")
    if not _DATACENTER.match(want[0]) or want[0] != have[0]:
        return different
    if not all(_is_detail(word) for word in (*want[1:], *have[1:])):
        return different
    open_questions = []
    for word in want[1:]:
        if word in have:
            continue
        answer = _detail(word, have, seen_memory_bytes)
        if answer is Outcome.REFUTED:
            return different
        if answer is Outcome.UNKNOWN:
            open_questions.append(word)
    if open_questions:
        return NameMatch(
            outcome=Outcome.UNKNOWN,
            reason=f"the device is {seen!r}, which does not say whether it is {' '.join(open_questions).upper()}",
        )
    return NameMatch(outcome=Outcome.PROVEN, reason=f"the device is {seen!r}, a {want[0].upper()} as expected")


def _detail(word: str, have: tuple[str, ...], seen_memory_bytes: int | None) -> Outcome:
    """What the words seen say about a typed detail that is not among them."""
    if size := _SIZE.match(word):
        if any(_SIZE.match(other) for other in have):
            return Outcome.REFUTED
        if seen_memory_bytes is None:
            return Outcome.UNKNOWN
        # Vendors sell decimal gigabytes: an "80GB" H100 reports 79.6 GiB, a "94GB" one 93.6.
        return Outcome.PROVEN if _near(int(size[1]) * _GIB, seen_memory_bytes) else Outcome.REFUTED
    kind = _FORM if _FORM.match(word) else _MEMORY_KIND
    generic = word.rstrip("0123456789")
    if kind is _FORM and any(other.startswith(generic) and other != word and word == generic for other in have):
        return Outcome.PROVEN  # "SXM" typed, "SXM4" seen
    return Outcome.REFUTED if any(kind.match(other) for other in have) else Outcome.UNKNOWN


def _is_detail(word: str) -> bool:
    return bool(_FORM.match(word) or _SIZE.match(word) or _MEMORY_KIND.match(word))


def _near(one_bytes: int, other_bytes: int) -> bool:
    return abs(one_bytes - other_bytes) <= _TOLERANCE * max(one_bytes, other_bytes)


def _refuted(reason: str) -> NameMatch:
    return NameMatch(outcome=Outcome.REFUTED, reason=reason)


def _all_words(name: str) -> list[str]:
    text = re.sub(r"\((?:r|tm)\)|[®™]", " ", name.lower())
    found: list[str] = []
    for word in re.split(r"[^a-z0-9.]+", text):
        if not word or word in _IGNORED:
            continue
        front = _GLUED_FRONT.match(word)
        for part in front.groups() if front else (word,):
            back = _GLUED_BACK.match(part)
            found.extend(back.groups() if back else (part,))
    return found
