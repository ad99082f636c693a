"""How the facts are known: what PyPI serves was read; what it does not serve is never called read."""

from __future__ import annotations

from ongpu import catalog

BUILDS = catalog.load().builds


def test_every_variant_of_pypi_was_read_from_its_binary() -> None:
    own = [one for one in BUILDS if one.pypi_default]
    assert len(own) > 70
    assert not [one.label for one in own if one.evidence != "binary" or one.publication != "seen"]


def test_no_variant_of_another_index_is_called_read() -> None:
    assert not [one.label for one in BUILDS if not one.pypi_default and one.evidence == "binary"]


def test_an_unknown_list_is_called_inferred_never_read() -> None:
    blank = [one for one in BUILDS if one.cuda_tag != "cpu" and not one.targets]
    assert blank
    assert {one.evidence for one in blank} == {"inferred"}
