"""Driving uv: its binary, a clean environment for it, a log of all it says, and its failures translated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ongpu.errors import DoorError, UnknownError, WorkError
from ongpu.install.failures import failure
from ongpu.install.redact import Redactor
from ongpu.machine.process import Processes

# What of uv's own variables may reach it: where it keeps things and how it reaches the network. Every other one
# (a further index, an override, a backend, a Python) would change what gets installed behind our back.
_KEPT: Final = frozenset(
    {
        "UV_CACHE_DIR",
        "UV_CONCURRENT_BUILDS",
        "UV_CONCURRENT_DOWNLOADS",
        "UV_CONCURRENT_INSTALLS",
        "UV_HTTP_CONNECT_TIMEOUT",
        "UV_HTTP_RETRIES",
        "UV_HTTP_TIMEOUT",
        "UV_INSECURE_HOST",
        "UV_KEYRING_PROVIDER",
        "UV_LINK_MODE",
        "UV_NATIVE_TLS",
        "UV_NO_CACHE",
        "UV_OFFLINE",
        "UV_PYTHON_DOWNLOADS",
        "UV_PYTHON_INSTALL_DIR",
        "UV_PYTHON_INSTALL_MIRROR",
        "UV_REQUEST_TIMEOUT",
        "UV_SYSTEM_CERTS",
    }
)
# How a person would write on the command line what goes in by a variable.
_FLAGS: Final = {"UV_INDEX": "--index", "UV_DEFAULT_INDEX": "--default-index"}
_DROPPED: Final = frozenset({"CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"})


def find_uv() -> Path:
    """uv's binary, from its PyPI wheel. Raises :class:`WorkError` where it is not there."""
    import uv  # noqa: PLC0415 - looks for its binary only when asked to install

    try:
        return Path(uv.find_uv_bin())
    except FileNotFoundError as error:
        raise WorkError(
            "uv, which does the installing, is not in ongpu's environment.",
            next_step="Type: python -m pip install --force-reinstall uv.",
        ) from error


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables uv is started with."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _DROPPED and (not name.startswith("UV_") or name in _KEPT)
    }


class Uv:
    """One uv binary, one log, one list of the command lines run.

    :param on_output: gets uv's lines as they come, secrets removed.
    """

    def __init__(
        self,
        binary: Path,
        *,
        processes: Processes,
        environment: Mapping[str, str],
        redactor: Redactor,
        log: Path,
        on_output: Callable[[bytes], None] | None,
    ) -> None:
        self.commands: list[tuple[str, ...]] = []
        self._binary = binary
        self._processes = processes
        self._environment = clean_environment(environment)
        pip_index = environment.get("PIP_INDEX_URL")
        self._pip_index = redactor.text(pip_index) if pip_index else None
        self._redactor = redactor
        self.log = log
        self._on_output = on_output
        self._pending = b""

    def run(
        self,
        *words: str,
        step: str,
        timeout_s: float,
        log_name: str | None = None,
        variables: Mapping[str, str] | None = None,
        show: bool = True,
    ) -> str:
        """Run ``uv WORDS`` to its end.

        :param step: what is being done, as the end of "Could not ...".
        :param log_name: what to call the log in messages, where it is going to be moved.
        :param variables: further variables for uv (index URLs, which may hold secrets that every user could read
            on a command line).
        :param show: whether its lines go to ``on_output``; the log has them in any case.
        :returns: what it wrote to standard output.
        :raises OngpuError: it failed; which one is decided by :func:`ongpu.install.failures.failure`.
        """
        # No configuration file is read: neither the user's nor the one of the folder we happen to be in may add
        # an index or an override. Without preview warnings, which are about uv's formats and not about the user.
        fixed = ("--no-config", "--color", "never", "--preview-features", "pylock", "--no-progress")
        argv = (str(self._binary), *words, *fixed)
        further = dict(variables or {})
        flags = [word for name, flag in _FLAGS.items() if name in further for word in (flag, further[name])]
        shown = tuple(self._redactor.text(word) for word in ("uv", *words, *flags))
        self.commands.append(shown)
        self._write(f"$ {' '.join(shown)}\n")
        try:
            done = self._processes.run(
                argv,
                timeout_s=timeout_s,
                env={**self._environment, **further},
                cwd=self.log.parent,
                on_output=self._pass_on if show else None,
            )
        except DoorError as error:
            raise WorkError(
                f"Could not {step}: uv cannot be started ({error.reason}).",
                next_step="Type: python -m pip install --force-reinstall uv.",
            ) from error
        finally:
            self._flush()
        text = self._redactor.text(done.stderr.decode("utf-8", "replace"))
        self._write(self._redactor.text(done.stdout.decode("utf-8", "replace")) + text)
        self._write(f"[status {done.status} after {done.seconds:.1f} s]\n")
        if done.timed_out:
            raise UnknownError(
                f"Could not {step} within {timeout_s:g} s: the index answers too slowly or not at all.",
                next_step=f"Try a faster index with --index-url, or a folder of wheels with --find-links. "
                f"The whole text is in {log_name or self.log}.",
                cause="undetermined",
            )
        if done.status != 0:
            raise failure(text, step=step, log=log_name or str(self.log), pip_index=self._pip_index)
        return done.stdout.decode("utf-8", "replace")

    def _write(self, text: str) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(text)

    def _pass_on(self, chunk: bytes) -> None:
        # Whole lines only: a secret cut in two by a chunk's end would slip through.
        whole, newline, self._pending = (self._pending + chunk).rpartition(b"\n")
        if self._on_output is not None and newline:
            self._on_output(self._redactor.text((whole + newline).decode("utf-8", "replace")).encode())

    def _flush(self) -> None:
        rest, self._pending = self._pending, b""
        if self._on_output is not None and rest:
            self._on_output(self._redactor.text(rest.decode("utf-8", "replace")).encode())
