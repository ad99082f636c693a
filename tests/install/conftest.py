"""A small package index on loopback, wheels made in a few lines, and a project: what the tests install from."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ongpu.domain.build import Decision, DecisionKind
from ongpu.environment import read_environment
from ongpu.install import InstallReport, InstallRequest, install
from ongpu.machine.process import RealProcesses

# A build backend in the project itself, so that building it needs nothing of any index.
BACKEND = """
import pathlib, tomllib, zipfile
HERE = pathlib.Path(__file__).parent
P = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
def _build(folder, files):
    info = f"{P['name']}-{P['version']}.dist-info"
    meta = f"Metadata-Version: 2.1\\nName: {P['name']}\\nVersion: {P['version']}\\n"
    meta += "".join(f"Requires-Dist: {d}\\n" for d in P.get("dependencies", ()))
    for extra, wanted in P.get("optional-dependencies", {}).items():
        meta += f"Provides-Extra: {extra}\\n" + "".join(f"Requires-Dist: {d}; extra == '{extra}'\\n" for d in wanted)
    wheel = "Wheel-Version: 1.0\\nGenerator: tests\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files = {**files, f"{info}/METADATA": meta, f"{info}/WHEEL": wheel}
    name = f"{P['name']}-{P['version']}-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{m},,\\n" for m in files) + f"{info}/RECORD,,\\n")
    return name
def build_wheel(folder, config_settings=None, metadata_directory=None):
    return _build(folder, {f"{P['name']}_code.py": "answer = 42\\n"})
def build_editable(folder, config_settings=None, metadata_directory=None):
    return _build(folder, {f"_{P['name']}.pth": str(HERE) + "\\n"})
"""
# The milestone's own project: folder backend, extra training.
TRAINING = (
    "jax[cpu]",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers>=4.40,<5",
    "torch>=2.0.0",
)


def wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    requires: Iterable[str] = (),
    files: Mapping[str, str] | None = None,
    scripts: Mapping[str, str] | None = None,
    tag: str = "py3-none-any",
) -> Path:
    """Write a wheel of a package into ``folder/<name>/``."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    content = dict(files) if files is not None else {f"{module}.py": f"version = {version!r}\n"}
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content[f"{info}/METADATA"] = metadata + "".join(f"Requires-Dist: {one}\n" for one in requires)
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"
    if scripts:
        lines = "".join(f"{script} = {target}\n" for script, target in scripts.items())
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}"
    path = folder / name / f"{module}-{version}-{tag}.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = ""
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in content.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{member},sha256={digest},{len(text.encode())}\n"
            archive.writestr(member, text)
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return path


def torch_wheel(folder: Path, version: str, cuda: str | None, *, requires: Iterable[str] = ()) -> Path:
    """A torch of some twenty lines; its ``version.py`` is written as the real one is."""
    text = (
        "from typing import Optional\n\n__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'xpu']\n"
        f"__version__ = '{version}'\ndebug = False\ncuda: Optional[str] = {cuda!r}\n"
        "git_version = '0'\nhip: Optional[str] = None\nxpu: Optional[str] = None\n"
    )
    files = {"torch/__init__.py": "from torch.version import __version__\n", "torch/version.py": text}
    return wheel(folder, "torch", version, requires=requires, files=files)


class Index:
    """Serves ``folder``: each child of a child is a package, ``/<index>/<package>/`` its page.

    :ivar wrong_hash: file names announced with a hash that is not theirs.
    :ivar hangs: path beginnings that are never answered.
    :ivar drips: path beginnings answered one byte a second.
    :ivar password: asked for where set (user ``user``).
    :ivar asked: every path asked for, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wrong_hash: set[str] = set()
        self.hangs: tuple[str, ...] = ()
        self.drips: tuple[str, ...] = ()
        self.password: str | None = None
        self.asked: list[str] = []
        self._closing = threading.Event()
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                index.answer(self, body=True)

            def do_HEAD(self) -> None:
                index.answer(self, body=False)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def url(self, name: str, *, login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self._server.server_address[1]}/{name}"

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, handler: http.server.BaseHTTPRequestHandler, *, body: bool) -> None:
        path = handler.path
        self.asked.append(path)
        if any(path.startswith(one) for one in self.hangs):
            self._closing.wait(60)
            handler.close_connection = True
            return
        status, content = self._content(path, handler.headers.get("Authorization"))
        handler.send_response(status)
        if status == 401:
            handler.send_header("WWW-Authenticate", "Basic")
        handler.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if not body:
            return
        if any(path.startswith(one) for one in self.drips):
            for at in range(len(content)):
                if self._closing.wait(1):
                    break
                try:
                    handler.wfile.write(content[at : at + 1])
                    handler.wfile.flush()
                except OSError:
                    break
            handler.close_connection = True
            return
        handler.wfile.write(content)

    def _content(self, path: str, login: str | None) -> tuple[int, bytes]:
        if self.password is not None:
            wanted = base64.b64encode(f"user:{self.password}".encode()).decode()
            if login != f"Basic {wanted}":
                return 401, b""
        file = self.folder / path.strip("/").replace("%2B", "+")
        if file.is_file():
            return 200, file.read_bytes()
        if file.is_dir():
            return 200, self._page(file).encode()
        return 404, b""

    def _page(self, folder: Path) -> str:
        rows = []
        for file in sorted((*folder.glob("*.whl"), *folder.glob("*.tar.gz"))):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            if file.name in self.wrong_hash:
                digest = hashlib.sha256(b"something else").hexdigest()
            rows.append(f'<a href="{file.name.replace("+", "%2B")}#sha256={digest}">{file.name}</a><br>')
        return "<!DOCTYPE html><html><body>" + "\n".join(rows) + "</body></html>"


def wait_for(condition: object, *, within_s: float = 20.0) -> None:
    """Wait until ``condition()`` holds; fails the test otherwise."""
    assert callable(condition)
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def project(
    folder: Path, *, training: Iterable[str] = TRAINING, dependencies: Iterable[str] = ("numpy",), more: str = ""
) -> Path:
    """Write a project like the milestone's into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "in_tree_backend.py").write_text(BACKEND, "utf-8")
    (folder / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'in_tree_backend'\nbackend-path = ['.']\n"
        "[project]\nname = 'backend'\nversion = '0.1'\n"
        f"dependencies = {list(dependencies)!r}\n"
        f"[project.optional-dependencies]\ntraining = {list(training)!r}\nother = ['numpy']\n{more}",
        "utf-8",
    )
    return folder


@dataclass(slots=True)
class World:
    """Two indexes (PyPI's place and torch's own), a folder to work in, and one way to install."""

    index: Index
    folder: Path
    shelf: Path
    cache: Path
    output: bytearray = field(default_factory=bytearray)
    processes: Any = field(default_factory=RealProcesses)

    @property
    def venv(self) -> Path:
        return self.folder / ".venv-gpu"

    def wheel(self, index: str, name: str, version: str, **more: Any) -> Path:
        return wheel(self.shelf / index, name, version, **more)

    def torch(self, index: str, version: str, cuda: str | None, **more: Any) -> Path:
        return torch_wheel(self.shelf / index, version, cuda, **more)

    def project(self, name: str = "backend", **more: Any) -> Path:
        return project(self.folder / name, **more)

    def decision(self, torch: str = "2.14.1", tag: str = "cu126", *, index: str | None = "cu", **more: Any) -> Decision:
        given: dict[str, Any] = {
            "decision": DecisionKind.PREBUILT,
            "torch": torch,
            "cuda_tag": tag,
            "index_url": None if index is None else self.index.url(index),
            "command": (),
            "fit": (),
            "axes": (),
            "cause": None,
            "alternatives": (),
            "assumptions": (),
            "lost": (),
            "next_step": "ongpu install",
        }
        return Decision(**{**given, **more})

    def install(self, *, variables: Mapping[str, str] | None = None, read: Any = None, **more: Any) -> InstallReport:
        given: dict[str, Any] = {
            "decision": self.decision(),
            "venv": self.venv,
            "index_url": self.index.url("pypi"),
            "resolve_timeout_s": 30.0,
            "install_timeout_s": 60.0,
        }
        # Of the caller's variables only what a process needs to live: nothing of this machine's uv or pip.
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT", "TMPDIR") if name in os.environ}
        quick = {"UV_CACHE_DIR": str(self.cache), "UV_HTTP_TIMEOUT": "3", "UV_HTTP_RETRIES": "0"}
        return install(
            InstallRequest(**{**given, **more}),
            processes=self.processes,
            environment={**kept, **quick, **(variables or {})},
            read=read or (lambda python: read_environment(python, processes=RealProcesses())),
            on_output=self.output.extend,
        )

    def left(self) -> list[str]:
        """What lies in the working folder."""
        return sorted(one.name for one in self.folder.iterdir())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    folder = tmp_path / "work"
    folder.mkdir()
    index = Index(shelf)
    made = World(index=index, folder=folder, shelf=shelf, cache=tmp_path / "cache")
    # torch's own index carries the decided build, and old copies of other packages, as the real one does.
    made.torch("cu", "2.14.1+cu126", "12.6", requires=("nvidia-cublas-cu12==12.6", "triton==3.8.0"))
    made.wheel("cu", "torchvision", "0.29.1+cu126", requires=("torch==2.14.1", "numpy"))
    made.wheel("cu", "torchvision", "0.30.0+cu126", requires=("torch==2.15.0", "numpy"))
    made.wheel("cu", "triton", "3.8.0")
    made.wheel("cu", "numpy", "1.0")
    # PyPI's place: a CPU-only torch of a higher version as bait, and what the milestone's project asks for.
    made.torch("pypi", "2.15.0+cpu", None)
    made.torch("pypi", "2.14.1", "13.0", requires=("nvidia-cublas-cu12==12.6",))
    made.wheel("pypi", "torchvision", "0.29.1", requires=("torch==2.14.1", "numpy"))
    made.wheel("pypi", "triton", "3.8.0")
    made.wheel("pypi", "numpy", "2.4.6")
    made.wheel("pypi", "nvidia-cublas-cu12", "12.6")
    made.wheel("pypi", "jaxlib", "0.9")
    made.wheel("pypi", "jax", "0.9", requires=("jaxlib==0.9", "numpy"))
    made.wheel("pypi", "optax", "0.2", requires=("jax",))
    made.wheel("pypi", "flax", "0.12", requires=("jax", "optax"))
    made.wheel("pypi", "orbax-checkpoint", "0.11", requires=("jax",))
    hello = {"transformers.py": "def main():\n    print('transformers', __file__)\n"}
    made.wheel("pypi", "transformers", "4.57.0", requires=("numpy",), files=hello, scripts={"tf": "transformers:main"})
    made.wheel("pypi", "transformers", "5.1.0", requires=("numpy",))
    try:
        yield made
    finally:
        index.close()
