"""``ongpu plan`` and ``ongpu catalog`` as a user meets them: indexes, locks, rows of one's own, bad input."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from tests.catalog.test_catalog_update import NAME, wheel
from tests.cli.cli_harness import here, ongpu
from tests.install.conftest import torch_wheel
from tools.write_contracts import SCHEMAS

pytestmark = [pytest.mark.process, pytest.mark.network]
BLACKWELL = ["plan", "--gpu", "RTX 5090", "--driver", "580.95.05"]


def flat(text: str) -> str:
    """Text without the folds of a narrow terminal."""
    return " ".join(text.split())


def valid(name: str, document: object) -> None:
    jsonschema.validate(document, json.loads((SCHEMAS / f"{name}.json").read_text("utf-8")))


class _Releases(http.server.BaseHTTPRequestHandler):
    """A package index that has one release more than any catalog; it never answers under ``/hangs/``."""

    closing = threading.Event()

    def do_GET(self) -> None:
        if self.path.startswith("/hangs/"):
            self.closing.wait(20)
            return
        files = [{"filename": f"torch-{version}-cp312-cp312-manylinux_2_28_x86_64.whl"} for version in ("2.9.1", "9.9")]
        body = json.dumps({"files": files}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture(scope="module")
def index() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Releases)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    _Releases.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_release_the_catalog_does_not_know_is_named(index: str, tmp_path: Path) -> None:
    ran = ongpu(
        [*BLACKWELL, "--json"], cwd=tmp_path, variables={"UV_OFFLINE": "", "UV_DEFAULT_INDEX": f"{index}/simple"}
    )
    document = ran.document()
    valid("plan", document)
    assert document["catalog"]["unknown"] == ["9.9"] and document["catalog"]["stale"]
    assert document["decision"] == "prebuilt"


@pytest.mark.parametrize(
    ("path", "said"),
    [("hangs", "did not answer|could not be asked"), ("", "could not be asked"), ("user:secret@", "password")],
)
def test_an_index_that_does_not_answer_is_said_and_changes_nothing(
    index: str, path: str, said: str, tmp_path: Path
) -> None:
    url = {"hangs": f"{index}/hangs", "": "http://127.0.0.1:9/simple"}.get(path, f"http://{path}127.0.0.1:9/simple")
    ran = ongpu(BLACKWELL, cwd=tmp_path, variables={"UV_OFFLINE": "", "UV_DEFAULT_INDEX": url})
    assert ran.status == 0
    assert "is not known: " in flat(ran.out) and any(word in flat(ran.out) for word in said.split("|"))
    assert "secret" not in ran.out + ran.err


def test_every_part_of_a_plan_is_shown(tmp_path: Path) -> None:
    words = ["plan", "--offline", "--gpu", "V100", "--gpu", "RTX 3090", "--modules", "proprietary"]
    ran = ongpu([*words, "--companion", "torchvision", "--lines", "uv"], cwd=tmp_path)
    assert ran.status == 0
    text = flat(ran.out)
    assert "torchvision==" in text and "torchaudio ended with" in text, "companions"
    assert "CUDA_VISIBLE_DEVICES=<UUID of NVIDIA GeForce RTX 3090>" in text, "what the newer GPU could have alone"
    assert "\n[tool.uv.sources]\n" in ran.out, "lines to copy as they are"
    assert "--offline was given" in text and "The catalog is of " in text
    blackwell = ongpu([*BLACKWELL, "--offline", "--modules", "proprietary"], cwd=tmp_path)
    assert blackwell.status == 3 and "driver-broken" in blackwell.out


def test_the_recipe_is_shown_or_written_and_never_run(tmp_path: Path) -> None:
    words = ["plan", "--offline", "--gpu", "V100", "--arch", "aarch64"]
    shown = ongpu(words, cwd=tmp_path)
    assert shown.status == 0 and "TORCH_CUDA_ARCH_LIST" in shown.out
    document = ongpu([*words, "--recipe", "build.sh", "--json"], cwd=tmp_path).document()
    valid("plan", document)
    assert (document["decision"], document["recipe_file"]) == ("source", "build.sh")
    assert (tmp_path / "build.sh").read_text("utf-8").splitlines() == document["recipe"]
    assert [one.name for one in tmp_path.iterdir()] == ["build.sh"]


@pytest.mark.parametrize("name", ["pylock.toml", "requirements.txt"])
def test_a_lock_is_written_with_hashes(name: str, tmp_path: Path) -> None:
    torch_wheel(tmp_path / "wheels", "2.15.0", "13.2")
    words = [*BLACKWELL, "--offline", "--python", "3.12", "--lock", name, "--json"]
    ran = ongpu([*words, "--find-links", "wheels/torch"], cwd=tmp_path)
    assert ran.status == 0, ran.err
    document = ran.document()
    valid("plan", document)
    text = (tmp_path / name).read_text("utf-8")
    assert document["lock"]["packages"] == 1 and "2.15.0" in text and "sha256" in text


def test_the_rows_of_a_wheel_are_kept_and_count(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(wheel())
    home = {"XDG_DATA_HOME": str(tmp_path / "data")}
    before = ongpu([*BLACKWELL, "--offline", "--json"], cwd=tmp_path, variables=home).document()
    ran = ongpu(["catalog", "update", NAME, "--json"], cwd=tmp_path, variables=home)
    assert ran.status == 0, ran.err
    valid("catalog-update", ran.document())
    shown = ongpu(["catalog", "--offline", "--json"], cwd=tmp_path, variables=home).document()
    valid("catalog", shown)
    assert (shown["newest"], shown["own_rows"][0]["evidence"]) == ("2.16.0", "binary")
    after = ongpu([*BLACKWELL, "--offline", "--json"], cwd=tmp_path, variables=home).document()
    assert before["torch"] != "2.16.0" and (after["torch"], after["cuda_tag"]) == ("2.16.0", "cu134")
    file = tmp_path / "data" / "ongpu" / "builds.csv"
    file.write_text(file.read_text("utf-8").replace("cu134", "cu13x"), "utf-8")
    broken = ongpu([*BLACKWELL, "--offline"], cwd=tmp_path, variables=home)
    assert broken.status == 1 and f"{file}, line 2" in broken.err


BAD = [
    (["--gpu", "RTX 50900"], "RTX 5090"),
    (["--driver", "580"], "--gpu"),
    (["--gpu", "T4", "--driver", "13.0"], "nvidia-smi"),
    (["--gpu", "T4", "--driver", "new"], "580.95.05"),
    (["--gpu", "T4", "--torch", "torch>=3,<2"], "newest it knows"),
    (["--gpu", "T4", "--companion", "torchtext"], "torchvision or torchaudio"),
    (["--gpu", "T4", "--modules", "closed"], "open or proprietary"),
    (["--gpu", "T4", "--lock", "my.toml"], "pylock.toml"),
    (["--gpu", "T4", "--lock", "."], "pylock.toml"),
    (["--gpu", "T4", "--lines", "conda"], "uv, pixi, docker"),
    (["--gpu", "T4", "--find-links", "x"], "--lock"),
    (["--gpu", "T4", "--rows", "no.csv"], "catalog update"),
]


@pytest.mark.parametrize(("words", "step"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_input_ends_with_the_next_step(
    words: list[str], step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = here(["plan", "--offline", *words], capsys)
    assert ran.status == 2 and step in ran.err.split("Next: ")[1]
    assert list(tmp_path.iterdir()) == [] and ran.out == ""
