"""One install, from the request to the report: check, resolve, build beside, read, move into place."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

from ongpu.domain.environment import Environment
from ongpu.domain.verdict import Outcome
from ongpu.errors import InterruptedRunError, UsageError, WorkError
from ongpu.install import place
from ongpu.install.advice import uv_project_notes
from ongpu.install.changes import all_changes
from ongpu.install.check import check_decision, check_values
from ongpu.install.judge import judge
from ongpu.install.lock import Locked
from ongpu.install.policy import PolicyRow, allowed_names, policy
from ongpu.install.project import Project, read_project
from ongpu.install.redact import Redactor
from ongpu.install.request import Installed, InstallReport, InstallRequest, activation_of
from ongpu.install.resolve import Indexes, Resolution, Resolver, indexes_of, sources_of
from ongpu.install.reuse import SCHEMA, Record, asked, differences, record_of
from ongpu.install.target import markers_for
from ongpu.install.uv import Uv, find_uv
from ongpu.machine.process import Processes

_LOG: Final = "ongpu-install.log"
_LOCK: Final = "pylock.toml"
_MAKE_TIMEOUT_S: Final = 900.0

Read = Callable[[Path], Environment]


def install(
    request: InstallRequest,
    *,
    processes: Processes,
    environment: Mapping[str, str],
    read: Read,
    on_output: Callable[[bytes], None] | None = None,
) -> InstallReport:
    """Make the environment a request describes, or find that it is there already.

    :param environment: the variables of the caller: what of them reaches uv is decided in
        :func:`ongpu.install.uv.clean_environment`; ``VIRTUAL_ENV`` and ``CONDA_PREFIX`` say which one is active.
    :param read: reads the environment of a Python (``ongpu.environment.read_environment``).
    :param on_output: gets the installer's lines as they come, secrets removed.
    :returns: the report; its outcome is refuted, and nothing was put into place, where what landed is not what
        was decided.
    :raises OngpuError: nothing was made: a bad request, a contradiction, an index that cannot be reached, a full
        disk, an interrupt. What was in the place before is still there.
    """
    job = _Job.of(request, processes=processes, environment=environment, read=read, on_output=on_output)
    started = time.monotonic()
    try:
        found = job.existing()
        report = found if found is not None else job.make()
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"The install of {job.venv.name} was interrupted; nothing of it is left.",
            next_step="Run the same command again to start over (what was downloaded is kept in uv's cache).",
        ) from None
    except OSError as error:
        raise WorkError(
            f"The install of {job.venv.name} failed: {error.strerror or error} ({error.filename or job.venv.parent}).",
            next_step="Free space or mend access there and run the same command again; nothing was changed.",
        ) from error
    return replace(report, seconds=time.monotonic() - started)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    request: InstallRequest
    venv: Path
    project: Project | None
    rows: tuple[PolicyRow, ...]
    allowed: frozenset[str]
    indexes: Indexes
    redactor: Redactor
    active: frozenset[Path]
    processes: Processes
    environment: Mapping[str, str]
    read: Read
    on_output: Callable[[bytes], None] | None

    @classmethod
    def of(
        cls,
        request: InstallRequest,
        *,
        processes: Processes,
        environment: Mapping[str, str],
        read: Read,
        on_output: Callable[[bytes], None] | None,
    ) -> _Job:
        """Check the request before anything is started."""
        check_decision(request)
        check_values(request)
        rows = policy()
        indexes = indexes_of(request, environment)
        urls = [indexes.default, indexes.torch or "", *request.find_links]
        urls += [value for value in environment.values() if "://" in value and "@" in value and " " not in value]
        named = (environment.get("VIRTUAL_ENV"), environment.get("CONDA_PREFIX"), sys.prefix)
        return cls(
            request=request,
            venv=Path.cwd() / request.venv,
            project=None if request.project is None else read_project(request.project, extra=request.extra),
            rows=rows,
            allowed=allowed_names(request.allow, rows),
            indexes=indexes,
            redactor=Redactor(urls),
            active=frozenset(Path(one).resolve() for one in named if one),
            processes=processes,
            environment=environment,
            read=read,
            on_output=on_output,
        )

    def existing(self) -> InstallReport | None:
        """The report of a matching complete environment; ``None`` where one is to be made.

        :raises UsageError: something is in the place that may not go.
        """
        place.check_place(self.venv, active=self.active)
        if not self.request.dry_run:
            place.recover(self.venv)
        if self.request.dry_run or not self.venv.exists() or not any(self.venv.iterdir()):
            return None
        marker = place.complete_marker(self.venv)
        record = record_of(marker) if marker is not None else None
        if record is not None:
            differs = differences(record, asked(self.request, project=self.project))
            if not differs:
                return self._reuse(record)
            what = f"is complete, but was made for something else (it differs in: {', '.join(differs)})"
        else:
            made = (
                "is an environment that ongpu did not make" if place.is_environment(self.venv) else "is no environment"
            )
            raise UsageError(
                f"{str(self.venv)!r} exists and {made}; it was not touched.",
                next_step="Name another folder with --venv, or move that one away yourself.",
            )
        if self.request.replace:
            return None
        raise UsageError(
            f"{str(self.venv)!r} {what}; it was not touched.",
            next_step="Name another folder with --venv, or say --replace: it goes once the new one is whole.",
        )

    def _reuse(self, record: Record) -> InstallReport | None:
        python = place.python_of(self.venv)
        found = self.read(python)
        judgment = judge(found, decision=self.request.decision, installed=record.installed)
        if judgment.outcome is not Outcome.PROVEN and self.request.replace:
            return None
        notes = [f"made on {record.made_at} by ongpu {record.tool}, used again as it is"]
        if self.project is not None and not self.request.editable:
            notes.append("the project in it is the copy of that day: say --replace to take in later changes")
        if judgment.outcome is not Outcome.PROVEN:
            notes.append("it was changed since it was made: say --replace to make it anew")
        return InstallReport(
            outcome=judgment.outcome,
            reason=judgment.reason,
            cause=judgment.cause,
            venv=str(self.request.venv),
            python=str(python),
            dry_run=False,
            reused=True,
            torch_index=record.torch_index,
            default_index=record.default_index,
            installed=record.installed,
            excluded=record.excluded,
            overridden=record.overridden,
            commands=(),
            log=str(self.venv / _LOG) if (self.venv / _LOG).is_file() else None,
            activation=activation_of(self.request.venv),
            notes=tuple(notes),
            environment=found,
            lock_sha256=record.lock_sha256,
        )

    def make(self) -> InstallReport:
        """Resolve, and unless it is a dry run build, read, and move into place."""
        failed = self.venv.parent / f"{self.venv.name}.failed.log"
        with tempfile.TemporaryDirectory(prefix="ongpu-install-") as name:
            work = Path(name)
            log = work / _LOG
            log.touch()
            try:
                report = self._make(work, log=log, log_name=str(failed))
            except KeyboardInterrupt:
                raise  # nothing went wrong that a log would explain
            except BaseException:
                with contextlib.suppress(OSError):
                    shutil.copyfile(log, failed)
                raise
            if report.outcome is Outcome.REFUTED:
                shutil.copyfile(log, failed)
                return replace(report, log=str(failed))
            failed.unlink(missing_ok=True)
            return report

    def _make(self, work: Path, *, log: Path, log_name: str) -> InstallReport:
        uv = Uv(
            find_uv(),
            processes=self.processes,
            environment=self.environment,
            redactor=self.redactor,
            log=log,
            on_output=self.on_output,
        )
        if self.request.dry_run:
            target = work / self.venv.name
            python = self._new_environment(uv, target, log_name=log_name)
            resolution = self._resolve(uv, python=python, work=work, log_name=log_name)
            self._keep_lock(resolution)
            return self._report(uv, resolution, found=None, log=None)
        with place.building(self.venv) as partial:
            python = self._new_environment(uv, partial.folder, log_name=log_name)
            resolution = self._resolve(uv, python=python, work=work, log_name=log_name)
            self._say(resolution)
            constraints = ("--build-constraints", str(resolution.build_constraints))
            uv.run(
                *("pip", "install", "--python", str(python), "-r", str(resolution.lock_file), *constraints),
                *sources_of(self.request),
                step=f"install {len(resolution.locked)} packages",
                timeout_s=self.request.install_timeout_s,
                log_name=log_name,
                variables={} if self.request.offline else self.indexes.environment(with_torch=False),
            )
            report = self._report(uv, resolution, found=self.read(python), log=str(self.venv / _LOG))
            if report.outcome is Outcome.REFUTED:
                return report
            shutil.copyfile(log, partial.folder / _LOG)
            (partial.folder / _LOCK).write_text(self.redactor.text(resolution.lock_file.read_text("utf-8")), "utf-8")
            self._keep_lock(resolution)
            record = self._record(report)
            place.commit(partial, marker=msgspec.to_builtins(record), replace=self.request.replace)
            # Read once more where it lies now: a move that broke it must not be reported as an environment.
            found = self.read(place.python_of(self.venv))
            judgment = judge(found, decision=self.request.decision, installed=report.installed)
            if judgment.outcome is not Outcome.PROVEN:
                place.withdraw(partial)
                return replace(report, outcome=judgment.outcome, reason=judgment.reason, cause=judgment.cause)
            place.settle(partial)
        return replace(report, environment=found, python=str(place.python_of(self.venv)))

    def _new_environment(self, uv: Uv, folder: Path, *, log_name: str) -> Path:
        # For another machine any Python of this one will do: uv is told the version to resolve for.
        wanted = sys.executable if self.request.platform else self.request.python or sys.executable
        uv.run(
            *("venv", "--no-project", "--relocatable", "--allow-existing", "--prompt", self.venv.name),
            *("--python", wanted, str(folder)),
            step=f"make an environment with Python {wanted}",
            timeout_s=_MAKE_TIMEOUT_S,
            log_name=log_name,
        )
        return place.python_of(folder)

    def _resolve(self, uv: Uv, *, python: Path, work: Path, log_name: str) -> Resolution:
        return Resolver(
            request=self.request,
            project=self.project,
            indexes=self.indexes,
            uv=uv,
            python=python,
            work=work,
            rows=self.rows,
            allowed=self.allowed,
            log_name=log_name,
        ).resolve()

    def _keep_lock(self, resolution: Resolution) -> None:
        if self.request.lock_file is not None:
            text = self.redactor.text(resolution.lock_file.read_text("utf-8"))
            self.request.lock_file.write_text(text, "utf-8")

    def _say(self, resolution: Resolution) -> None:
        """Before gigabytes are fetched, how many."""
        if self.on_output is None:
            return
        size = sum(one.size_bytes or 0 for one in resolution.locked)
        known = sum(one.size_bytes is not None for one in resolution.locked)
        told = f"{size / 1e9:.2f} GB in {known} files whose size is known" if known else "sizes are not known"
        self.on_output(f"ongpu: {len(resolution.locked)} packages to install; {told}\n".encode())

    def _report(self, uv: Uv, resolution: Resolution, *, found: Environment | None, log: str | None) -> InstallReport:
        installed = tuple(self._installed(one, found) for one in resolution.locked)
        excluded, overridden = all_changes(
            resolution,
            project=self.project,
            requirements=self.request.requirements,
            rows=self.rows,
            allowed=self.allowed,
            found=found,
            markers=markers_for(self.request.platform, python=found.python.version if found else self.request.python),
            torch_from=self.redactor.text(self.indexes.torch or self.indexes.default),
        )
        notes = list(self._uv_project())
        if resolution.shadow_problem is not None:
            notes.append(
                "who else wants an excluded package is not known, since without the exclusions it does not resolve: "
                + resolution.shadow_problem
            )
        unhashed = [one.name for one in installed if one.url is not None and one.sha256 is None and not one.built]
        if unhashed:
            notes.append(f"the index gives no SHA-256 for: {', '.join(unhashed)}")
        several = [one.name for one in installed if one.url is None and not one.built]
        if several:
            notes.append(f"several files fit equally well, so which one is not known before: {', '.join(several)}")
        outcome, reason, cause = Outcome.UNKNOWN, "a dry run: resolved, nothing installed", None
        if found is not None:
            judgment = judge(found, decision=self.request.decision, installed=installed)
            outcome, reason, cause = judgment.outcome, judgment.reason, judgment.cause
        sizes = [one.size_bytes for one in installed if one.size_bytes is not None]
        return InstallReport(
            outcome=outcome,
            reason=reason,
            cause=cause,
            venv=str(self.request.venv),
            python=None if found is None else found.python.path,
            dry_run=self.request.dry_run,
            reused=False,
            torch_index=self.redactor.text(self.indexes.torch) if self.indexes.torch else None,
            default_index=None if self.request.offline else self.redactor.text(self.indexes.default),
            installed=installed,
            excluded=excluded,
            overridden=overridden,
            commands=tuple(uv.commands),
            log=log,
            activation=activation_of(self.request.venv),
            notes=tuple(notes),
            problems=() if found is None else found.problems,
            environment=found,
            download_bytes=sum(sizes) if sizes else None,
            lock_sha256=hashlib.sha256(resolution.lock_file.read_bytes()).hexdigest(),
        )

    def _uv_project(self) -> tuple[str, ...]:
        file = None if self.project is None else self.project.folder / "pyproject.toml"
        if file is None or not file.is_file():
            return ()
        lock = file.with_name("uv.lock")
        text = lock.read_text("utf-8", "replace") if lock.is_file() else None
        return uv_project_notes(file.read_text("utf-8"), text, self.request.decision)

    def _installed(self, one: Locked, found: Environment | None) -> Installed:
        # A folder has no version in a lock: it is known once it was built.
        built = found.package(one.name) if found is not None and one.version is None else None
        return Installed(
            name=one.name,
            version=built.version if built else one.version,
            url=None if one.location is None else self.redactor.text(one.location),
            sha256=one.sha256,
            size_bytes=one.size_bytes,
            built=one.kind in {"sdist", "vcs", "directory"},
        )

    def _record(self, report: InstallReport) -> Record:
        return Record(
            schema=SCHEMA,
            asked=asked(self.request, project=self.project),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            tool=metadata.version("ongpu"),
            torch_index=report.torch_index,
            default_index=report.default_index,
            installed=report.installed,
            excluded=report.excluded,
            overridden=report.overridden,
            lock_sha256=report.lock_sha256,
        )
