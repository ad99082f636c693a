"""The configuration of one training run: a flat YAML mapping, refused by name and line where it is wrong.

The values are read from YAML *nodes*, not from loaded objects: a node knows its line, ``2e-5`` stays the text
the user wrote (YAML 1.1 reads it as a string), and a key given twice is seen.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ongpu.errors import UsageError, WorkError

if TYPE_CHECKING:
    import yaml

_LARGEST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What is trained, on what, and how. The defaults are the embedded smoke run."""

    model: str = "tiny"
    """``tiny``, ``gpt2`` (the 124M shape with random weights), a local folder, or a hub id."""
    weights: str = "pretrained"
    """``pretrained``, or ``random`` to take only the shape of a folder. ``tiny`` and ``gpt2`` are always random."""
    dataset: str = "dev-reasoning-v2"
    """A built-in name or the path of a JSON Lines file."""
    output: str = "./output/smoke_tiny"
    device: str = "auto"
    """``cuda`` (never anything else), ``cpu``, or ``auto`` (the CPU only where there is no NVIDIA GPU at all)."""
    max_steps: int = 50
    """Optimizer steps."""
    seed: int = 42
    batch_size: int = 8
    """Records of one micro-step of one rank."""
    batch_tokens: int = 0
    """Tokens of a packed row, filled with as many whole records as fit, in place of ``batch_size``; 0: by records."""
    grad_accumulation_steps: int = 1
    """Micro-steps whose gradients one optimizer step uses."""
    max_seq_length: int = 64
    """Tokens of a record that are kept; what is cut is counted and reported."""
    loss_on: str = "text"
    """``text`` (every token) or ``completion`` (steps and answer; the prompt is masked)."""
    on_bad_record: str = "fail"
    """``fail`` or ``skip`` (with a count)."""
    cache_tokens: bool = True
    """Keep the tokens of large data for later runs, in the user's cache folder."""
    vocab_size: int = 2048
    """Largest vocabulary of a tokenizer made from the data."""
    vocab_multiple: int = 1
    """The token table's rows are a multiple of this: bfloat16 products are faster with 64. ``tiny`` always takes 64."""
    precision: str = "float32"
    """``float32`` (no TF32), or ``bfloat16`` (float32 master weights and optimizer state, bfloat16 arithmetic)."""
    packing: bool = False
    """Put the records of a micro-step into one row without filling; each still attends to itself alone."""
    loss_chunk_tokens: int = 0
    """Tokens whose logits exist at once; 0 means all."""
    recompute_blocks: bool = False
    """Compute the inside of each block again in the backward pass instead of keeping it: less memory, more time."""
    cuda_graph: str = "auto"
    """``auto``, ``always`` or ``never``: record a step once and replay it. The arithmetic stays the same."""
    kernels: str = "auto"
    """``auto``, ``always`` or ``never``: packed rows in bfloat16 on a GPU by kernels of our own (Triton)."""
    fp8: bool = False
    """Products inside the blocks in float8, with the kernels of our own: another rounding, so never by itself."""
    compile: str = "never"
    """``auto``, ``always`` or ``never``: compile the model's blocks with ``torch.compile``."""
    parallel: str = "auto"
    """Of several ranks: ``ddp`` (each holds all weights), ``fsdp`` (each holds a part of every weight) or ``auto``."""
    lora_rank: int = 0
    """Rank of the LoRA adapters that are trained in place of the model; 0 trains the model itself."""
    lora_alpha: float = 16.0
    """What the adapters add is multiplied by ``lora_alpha / lora_rank``."""
    lora_targets: str = "all"
    """``all`` linear layers of the blocks, or the names of some, separated by commas: ``q_proj,v_proj``."""
    learning_rate: float = 1e-3
    lr_schedule: str = "constant"
    """``constant``, ``linear`` or ``cosine`` (both fall to zero at ``max_steps``)."""
    warmup_steps: int = 0
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices and embeddings; biases and norms have none."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 leaves them alone."""
    log_every: int = 10
    """Steps between printed lines; ``metrics.jsonl`` has every step."""
    save_every: int = 0
    """Steps between checkpoints; 0 keeps one only when the run is stopped."""
    keep_checkpoints: int = 2
    eval_fraction: float = 0.0
    """Part of the records held out from training, for a loss that was not trained on."""
    eval_every: int = 0
    """Steps between evaluations; 0 evaluates at the end only. The end is always evaluated."""
    tensorboard: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What a value must be, in words and as a test."""

    wording: str
    holds: Callable[[str | int | float | bool], bool]


def _one_of(*names: str) -> _Rule:
    return _Rule(wording="one of " + ", ".join(names), holds=lambda value: value in names)


def _number(wording: str, test: Callable[[float], bool]) -> _Rule:
    return _Rule(wording=wording, holds=lambda value: math.isfinite(float(value)) and test(float(value)))


_POSITIVE: Final = _number("greater than 0", lambda value: value > 0)
_COUNT: Final = _number("0 or more", lambda value: value >= 0)
_BETA: Final = _number("at least 0 and less than 1", lambda value: 0 <= value < 1)
_TEXT: Final = _Rule(wording="a text that is not empty", holds=lambda value: bool(str(value).strip()))

RULES: Final[Mapping[str, _Rule]] = {
    "model": _TEXT,
    "dataset": _TEXT,
    "output": _TEXT,
    "weights": _one_of("pretrained", "random"),
    "device": _one_of("cuda", "cpu", "auto"),
    "max_steps": _POSITIVE,
    "seed": _number("0 or more and less than 2**63", lambda value: 0 <= value < 2**63),
    "batch_size": _POSITIVE,
    "batch_tokens": _COUNT,
    "grad_accumulation_steps": _POSITIVE,
    "max_seq_length": _number("2 or more", lambda value: value >= 2),
    "loss_on": _one_of("text", "completion"),
    "on_bad_record": _one_of("fail", "skip"),
    "vocab_size": _number("between 300 and 50257", lambda value: 300 <= value <= 50257),
    "vocab_multiple": _number("between 1 and 1024", lambda value: 1 <= value <= 1024),
    "precision": _one_of("float32", "bfloat16"),
    "loss_chunk_tokens": _COUNT,
    "cuda_graph": _one_of("auto", "always", "never"),
    "kernels": _one_of("auto", "always", "never"),
    "compile": _one_of("auto", "always", "never"),
    "parallel": _one_of("auto", "ddp", "fsdp"),
    "lora_rank": _COUNT,
    "lora_alpha": _POSITIVE,
    "lora_targets": _TEXT,
    "learning_rate": _POSITIVE,
    "lr_schedule": _one_of("constant", "linear", "cosine"),
    "warmup_steps": _COUNT,
    "weight_decay": _COUNT,
    "adam_beta1": _BETA,
    "adam_beta2": _BETA,
    "adam_epsilon": _POSITIVE,
    "max_grad_norm": _COUNT,
    "log_every": _POSITIVE,
    "save_every": _COUNT,
    "keep_checkpoints": _POSITIVE,
    "eval_fraction": _number("at least 0 and at most 0.5", lambda value: 0 <= value <= 0.5),
    "eval_every": _COUNT,
}
_TYPES: Final[Mapping[str, str]] = {field.name: str(field.type) for field in dataclasses.fields(Config)}
_TYPE_WORDING: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text (put it in quotes)",
}


def load(path: Path) -> Config:
    """Read and check the configuration at ``path``; :class:`UsageError` names the key and the line."""
    return parse(_read(path), name=str(path))


def override(config: Config, changes: Mapping[str, str | int]) -> Config:
    """``config`` with options of the command line in place; :class:`UsageError` names the option."""
    for key, value in changes.items():
        rule = RULES.get(key)
        if rule is not None and not rule.holds(value):
            raise UsageError(f"--{key} {value} is not {rule.wording}.", next_step=f"Give --{key} a value that is.")
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def _read(path: Path) -> str:
    example = "Give --config a YAML file such as training/configs/smoke_tiny.yaml."
    try:
        if path.is_dir():
            raise UsageError(f"The configuration {path} is a folder, not a file.", next_step=example)
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"There is no configuration {path}.", next_step=example) from None
    except OSError as error:
        raise UsageError(
            f"The configuration {path} cannot be read: {error.strerror}.", next_step="Check its permissions."
        ) from None
    if len(content) > _LARGEST_BYTES:
        raise UsageError(f"The configuration {path} has {len(content)} bytes; the limit is 1 MiB.", next_step=example)
    if b"\x00" in content:
        raise UsageError(f"The configuration {path} is a binary file, not YAML.", next_step=example)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(
            f"The configuration {path} is not UTF-8 text (line {line}): a binary file, or another encoding.",
            next_step="Save it as UTF-8 text.",
        ) from None


def parse(text: str, *, name: str) -> Config:
    """Check the YAML ``text`` of the file called ``name`` and return its configuration."""
    root = _compose(text, name)
    values: dict[str, str | int | float | bool] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in root.value:
        line = key_node.start_mark.line + 1
        key = str(key_node.value)
        where = f"{name}, line {line}"
        if key not in _TYPES:
            near = difflib.get_close_matches(key, list(_TYPES), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UsageError(
                f"{where}: unknown key '{key}'.{hint}",
                next_step="Remove it, or use one of: " + ", ".join(_TYPES) + ".",
            )
        if key in lines:
            raise UsageError(
                f"{where}: the key '{key}' was already given on line {lines[key]}.", next_step="Keep one of the two."
            )
        lines[key] = line
        values[key] = _value(key, value_node, where)
    return Config(**values)  # type: ignore[arg-type]


def _compose(text: str, name: str) -> yaml.MappingNode:
    try:
        import yaml  # noqa: PLC0415 - a machine without PyYAML must get a message, not a traceback
    except ImportError:
        raise WorkError(
            "PyYAML is not installed, so no configuration can be read.", next_step="Install it: pip install pyyaml."
        ) from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        if mark and "\\t" in str(error.problem):
            raise UsageError(
                f"{name}, line {line}: a tab where YAML allows only spaces.", next_step="Replace the tab by spaces."
            ) from None
        raise UsageError(
            f"{name}, line {line}: not YAML: {error.problem}.", next_step="Write one 'key: value' a line."
        ) from None
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{name} is not YAML text: {reason}.", next_step="Write one 'key: value' a line.") from None
    if root is None:
        raise UsageError(
            f"The configuration {name} is empty.",
            next_step="Write one 'key: value' a line, or leave --config out for the embedded default.",
        )
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(
            f"{name}, line {root.start_mark.line + 1}: not a mapping of keys to values.",
            next_step="Write one 'key: value' a line.",
        )
    return root


def _value(key: str, node: yaml.Node, where: str) -> str | int | float | bool:
    kind = _TYPES[key]
    tag = str(node.tag).rpartition(":")[2]
    text = str(node.value)
    shown = {"seq": "a list", "map": "a mapping"}.get(tag, text or "empty")
    value = _convert(kind, tag, text, plain=getattr(node, "style", None) is None)
    rule = RULES.get(key)
    if value is None:
        named = rule is not None and kind == "str" and rule is not _TEXT  # a choice of names says them
        wording = rule.wording if rule is not None and named else _TYPE_WORDING[kind]
        raise UsageError(f"{where}: '{key}' is {shown}, not {wording}.", next_step="Correct the value.")
    if rule is not None and not rule.holds(value):
        raise UsageError(f"{where}: '{key}' is {shown}, not {rule.wording}.", next_step="Correct the value.")
    return value


def _convert(kind: str, tag: str, text: str, *, plain: bool) -> str | int | float | bool | None:
    """The value of a scalar as the type ``kind``, or ``None`` where it is of another type."""
    if kind == "str":
        return text if tag == "str" else None
    if kind == "bool":
        return text.lower() in {"true", "yes", "on"} if tag == "bool" else None
    if kind == "int":
        # plain decimal only: YAML 1.1 also reads 010 as octal and 1:30 as sexagesimal, which nobody means here
        digits = text.replace("_", "")
        plain_digits = digits.removeprefix("-").isdecimal()
        return int(digits) if tag == "int" and plain_digits and str(int(digits)) == digits else None
    if tag in {"int", "float"} or (tag == "str" and plain):
        try:
            return float(text.replace("_", ""))
        except ValueError:
            return None
    return None
