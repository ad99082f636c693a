"""What uv says when it fails, turned into one error with a next step. Pure: text in, error out."""

from __future__ import annotations

import re
from typing import Final

from ongpu.errors import BlockedError, OngpuError, RefusedError, UsageError, WorkError

_ANSI: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# "  x No solution found ..." and "  +-> Because ...", with the multiplication sign and box-drawing characters.
_DRAWN: Final = re.compile("\\s*(?P<mark>\u00d7|[\u2570\u251c]\u2500\u25b6)\\s*")
_MOST_LINES: Final = 6
_MOST_CHARACTERS: Final = 900


def shortened(text: str) -> tuple[str, ...]:
    """The lines that explain a failure: from ``error:`` on, and the hints; at most six."""
    lines = [_plain(one).rstrip() for one in text.replace("\r", "\n").splitlines()]
    lines = [one for one in lines if one.strip()]
    first = next((at for at, one in enumerate(lines) if one.startswith("error")), None)
    kept = lines[first:] if first is not None else lines[-_MOST_LINES:]
    kept = [one.strip() for one in kept if not one.startswith("warning:")]
    short: list[str] = []
    for one in kept:
        if len(short) == _MOST_LINES or sum(map(len, short)) > _MOST_CHARACTERS:
            short.append("... (the whole text is in the log)")
            break
        short.append(one if len(one) <= _MOST_CHARACTERS else one[:_MOST_CHARACTERS] + " ...")
    return tuple(short)


def _plain(line: str) -> str:
    """One line without colors; the tree that uv drew before 0.13 as the words it has written since."""
    line = _ANSI.sub("", line)
    drawn = _DRAWN.match(line)
    if drawn is None:
        return line
    return ("error: " if drawn["mark"] == "\u00d7" else "cause: ") + line[drawn.end() :]


def failure(text: str, *, step: str, log: str, pip_index: str | None = None) -> OngpuError:
    """The error for uv's output, secrets already removed.

    :param step: what was being done, as the end of "Could not ...".
    :param log: where the whole text is.
    :param pip_index: the index pip is configured with, which uv does not read, secrets removed.
    """
    lines = shortened(text)
    said = lines[0].removeprefix("error:").strip() if lines else "uv gave no reason"
    cause = next((one.removeprefix("cause:").strip() for one in lines[1:] if one.startswith("cause:")), "")
    whole = text.lower()
    see = f"The whole text is in {log}."
    if "no space left on device" in whole or "os error 28" in whole or "disk quota exceeded" in whole:
        return WorkError(
            f"Could not {step}: the disk is full.",
            next_step=f"Free space there and in uv's cache (uv cache prune), or set UV_CACHE_DIR elsewhere. {see}",
        )
    if "hash mismatch" in whole:
        name = re.search(r"hash mismatch for `([^`]+)`", text, re.IGNORECASE)
        return RefusedError(
            f"Could not {step}: {name[1] if name else 'a file'} is not the file the index announced (SHA-256 differs).",
            next_step=f"Do not use that index until its owner explains; nothing was installed. {see}",
        )
    if "python-build-standalone" in whole:
        return WorkError(
            f"Could not {step}: that Python is not on this machine and cannot be downloaded.",
            next_step=f"Install it, name one that is there with --python, or set UV_PYTHON_INSTALL_MIRROR. {see}",
        )
    network = _network(whole, said=said, cause=cause, step=step, see=see, pip_index=pip_index)
    if network is not None:
        return network
    if any(one in whole for one in ("no interpreter found", "inspect python interpreter", "query python interpreter")):
        return UsageError(
            f"Could not {step}: {_sentence(said)}",
            next_step=f"Name an installed Python with --python, or install that one. {see}",
        )
    if "permission denied" in whole or "read-only file system" in whole:
        return UsageError(
            f"Could not {step}: {_sentence(cause or said)}",
            next_step=f"Name a folder you may write to with --venv. {see}",
        )
    return _blocked(whole, said=said, cause=cause, step=step, see=see, lines=lines) or WorkError(
        f"Could not {step}: {_sentence(said)}", next_step=f"Read why in {log} and try again."
    )


def _blocked(whole: str, *, said: str, cause: str, step: str, see: str, lines: tuple[str, ...]) -> BlockedError | None:
    """What no other network, disk or permission would change."""
    # A package that cannot be built may say "no solution found" about what it needs to build: asked first.
    if "failed to build" in whole or "build backend" in whole or "building source distributions is disabled" in whole:
        reason, next_step = "a package does not build here.", "Choose a version that has a wheel, or mend its build."
        said = ": ".join([said, *(one.removeprefix("cause:").strip() for one in lines if one.startswith("cause:"))][:3])
    elif "does not satisfy python" in whole or "python abi tag" in whole or "requires-python" in whole:
        reason, next_step, said = "it needs another Python.", "Name one that fits with --python.", cause or said
    elif "no solution found" in whole:
        reason, said = "the requirements contradict each other.", cause or said
        next_step = "Loosen the requirement named there, or plan for it with ongpu plan --torch SPEC."
    else:
        return None
    return BlockedError(
        f"Could not {step}: {reason} {_sentence(said)}",
        next_step=f"{next_step} {see}",
        cause="python-env",
        lines=lines,
    )


def _network(whole: str, *, said: str, cause: str, step: str, see: str, pip_index: str | None) -> OngpuError | None:
    url = re.search(r"(?:failed to fetch:? `?|url \()(?P<url>https?://[^\s`)]+)", whole)
    where = url["url"] if url else "the index"
    other = (
        f" pip is configured with {pip_index}, which uv does not read: give it with --index-url." if pip_index else ""
    )
    status = re.search(r"\b(40[13]) (?:unauthorized|forbidden)|http status client error \((40[13])", whole)
    if status:
        code = status[1] or status[2]
        return WorkError(
            f"Could not {step}: {where} refuses access ({code}).",
            next_step=f"Give an index URL with valid credentials, or log in to it (uv auth login). {see}",
        )
    tls = ("certificate", "invalidcontenttype", "tls handshake", "unknownissuer", "self-signed", "self signed")
    if any(one in whole for one in tls):
        return WorkError(
            f"Could not {step}: no trusted TLS connection to {where}.",
            next_step=f"Set SSL_CERT_FILE to your certificate authority's file, or use http only where you may. {see}",
        )
    if "dns error" in whole or "failed to lookup address" in whole:
        reason = "its name cannot be resolved"
    elif "operation timed out" in whole or "timed out" in whole:
        reason = "it does not answer in time"
    elif "network connectivity is disabled" in whole:
        reason = "the network is disabled"
    elif any(
        one in whole for one in ("error sending request", "failed to fetch", "request failed", "failed to download")
    ):
        reason = cause or said
    else:
        return None
    return WorkError(
        f"Could not {step}: {where} is not reachable ({reason.rstrip('.')}).",
        next_step=f"Check the network or name a mirror with --index-url, or a folder with --find-links.{other} {see}",
    )


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith(".") else text + "."
