"""A configuration is refused by name and line, and every file that is none gets one clear message."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ongpu.errors import UsageError
from ongpu.training import config as configuration
from ongpu.training.config import RULES, Config

CONFIGS = Path(__file__).resolve().parents[2] / "training" / "configs"


def refused(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        configuration.parse(text, name="job.yaml")
    assert caught.value.next_step.endswith(".")
    return caught.value.message


def test_the_milestone_configuration_is_what_the_milestone_says() -> None:
    config = configuration.load(CONFIGS / "submission_local.yaml")
    assert (config.model, config.precision, config.batch_size, config.max_seq_length) == ("gpt2", "float32", 4, 64)
    assert (config.learning_rate, config.weight_decay, config.device) == (2e-5, 0.01, "cuda")
    assert config.output == "./output/m40_gpu_run"


def test_the_smoke_configuration_is_the_embedded_default() -> None:
    assert configuration.load(CONFIGS / "smoke_tiny.yaml") == Config()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: tiny\nlearning_rte: 1\n", ("line 2", "unknown key 'learning_rte'", "Did you mean 'learning_rate'?")),
        ("max_steps: many\n", ("line 1", "'max_steps' is many", "a whole number")),
        ("max_steps: 2.5\n", ("'max_steps' is 2.5", "a whole number")),
        ("max_steps: 010\n", ("'max_steps' is 010", "a whole number")),
        ("max_steps: 1:30\n", ("a whole number",)),
        ("max_steps: true\n", ("a whole number",)),
        ("max_steps: 0\n", ("'max_steps' is 0", "greater than 0")),
        ("learning_rate: .nan\n", ("'learning_rate' is .nan", "a number")),
        ("learning_rate: -.inf\n", ("a number",)),
        ("learning_rate: -1\n", ("greater than 0",)),
        ("learning_rate: [1]\n", ("a list", "a number")),
        ("learning_rate: '2e-5'\n", ("a number",)),
        ("\n\nmodel: 12\n", ("line 3", "a text")),
        ("model: null\n", ("null", "a text")),
        ("tensorboard: maybe\n", ("true or false",)),
        ("seed: -1\n", ("'seed' is -1", "0 or more")),
        ("compile: yes\n", ("'compile' is yes", "one of auto, always, never")),
        ("lora_targets: ''\n", ("'lora_targets' is empty", "a text that is not empty")),
        ("device: gpu\n", ("'device' is gpu", "one of cuda, cpu, auto")),
        ("seed: 1\nseed: 2\n", ("line 2", "'seed' was already given on line 1")),
        ("model: tiny\n\tseed: 1\n", ("line 2", "a tab")),
        ("", ("empty",)),
        ("# only a comment\n", ("empty",)),
        ("- a\n- b\n", ("line 1", "not a mapping")),
        ("model: [tiny\n", ("not YAML",)),
        ("model: tiny\n--- \nseed: 1\n", ("not YAML",)),
        ("model: \x01\n", ("not YAML text",)),
        ("? [a]\n: b\n", ("unknown key",)),
    ],
)
def test_bad_text_is_named(text: str, words: tuple[str, ...]) -> None:
    message = refused(text)
    for word in words:
        assert word in message


def test_exponents_without_a_point_are_numbers() -> None:
    assert configuration.parse("learning_rate: 2e-5\n", name="x").learning_rate == 2e-5


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    binary, latin = tmp_path / "binary", tmp_path / "latin"
    binary.write_bytes(b"\x7fELF\x00\x01")
    latin.write_bytes("# a\nmodel: caf\xe9\n".encode("latin-1"))
    for path, word in [
        (tmp_path, "is a folder"),
        (tmp_path / "none.yaml", "There is no configuration"),
        (binary, "binary file"),
        (latin, "line 2"),
    ]:
        with pytest.raises(UsageError, match=word):
            configuration.load(path)
    huge = tmp_path / "huge"
    huge.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(UsageError, match="1 MiB"):
        configuration.load(huge)


def test_options_are_checked_like_keys() -> None:
    assert configuration.override(Config(), {"max_steps": 3}).max_steps == 3
    with pytest.raises(UsageError, match="--device gpu is not one of cuda, cpu, auto"):
        configuration.override(Config(), {"device": "gpu"})


def test_the_page_has_every_key_with_its_default() -> None:
    page = (CONFIGS.parents[1] / "docs/training.md").read_text("utf-8").partition("| key | default |")[2]
    told = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page.partition("\n\n")[0], re.MULTILINE)
    said = {field.name: str(field.default) for field in dataclasses.fields(Config)}
    assert dict(told) == {key: value.lower() if value in {"True", "False"} else value for key, value in said.items()}


def test_every_number_has_a_rule() -> None:
    for field in dataclasses.fields(Config):
        assert field.name in RULES or field.type == "bool"


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_one_message(text: str) -> None:
    try:
        configuration.parse(text, name="x")
    except UsageError as error:
        assert error.message
        assert error.next_step


@given(st.sampled_from([f.name for f in dataclasses.fields(Config)]), st.text(max_size=20))
def test_any_value_is_taken_or_refused_by_its_key(key: str, value: str) -> None:
    try:
        config = configuration.parse(f"{key}: {value}\n", name="x")
    except UsageError as error:
        assert error.message
    else:
        assert type(getattr(config, key)) is type(getattr(Config(), key))
