"""Several processes that train together: whether all are ready, and how one that fails stops all.

A launcher (torchrun, or anything that sets ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``) starts one
process a GPU. They meet at torch's key-value store before any of them touches data. Each says what it trains on or why
it cannot, so that one rank without a GPU stops all at once and with its own reason. Later a failure is written to the
same store, where a thread of every rank looks once a second: nobody waits for a collective that will never end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final, TypeVar

from ongpu.domain.verdict import Cause
from ongpu.errors import BlockedError, OngpuError, WorkError
from ongpu.training.place import Place

MEETING_S: Final = 300.0
"""How long the ranks wait for the last of them: a cold start from a network disk takes minutes."""
_COLLECTIVE_S: Final = 600.0
_FIRST_COLLECTIVE_S: Final = 120.0
_LOOK_EVERY_S: Final = 1.0
_UNAIDED_S: Final = 3.0
"""After another rank's failure, the time a rank has to end by itself before its collectives are broken off."""
_ABORTED_S: Final = 12.0
"""The time after that, before the process is ended where it stands."""
_SILENT_S: Final = 15.0
"""A rank whose thread has not shown for so long has been killed, or its host is gone."""
_TOGETHER_S: Final = 5.0
"""How long a rank that is done waits for the others: a launcher ends all as soon as one has left with an error."""
_FAILED: Final = "failed"

_T = TypeVar("_T")


class OtherRankError(OngpuError):
    """Another rank could not go on and has said so itself; this one ends with the same exit status."""

    def __init__(self, word: Mapping[str, Any]) -> None:
        super().__init__(f"rank {word['rank']} ({word['host']}) stopped: {word['message']}", next_step=word["next"])
        self.exit_status = int(word["status"])
        self.untold = bool(word.get("untold"))


class Alone:
    """A process that trains alone; what it would ask the others it answers itself."""

    rank = local_rank = 0
    world_size = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes and speaks."""
        return self.rank == 0

    def meet(self, word: Mapping[str, str]) -> list[dict[str, str]]:
        """Tell the others ``word`` and hear theirs, by rank; :class:`OtherRankError` where one cannot train."""
        return [dict(word)]

    def start(self, device: str) -> None:
        """Open the connections for gradients and try them once."""

    def share(self, name: str, make: Callable[[], _T]) -> _T:  # noqa: ARG002 - for several ranks
        """What ``make`` returns on the first rank (of JSON's types); the others wait for it."""
        return make()

    def gather(self, name: str, value: _T) -> list[_T]:  # noqa: ARG002 - for several ranks
        """The ``value`` of every rank (of JSON's types), by rank."""
        return [value]

    def differs(self, what: str, value: str) -> int | None:
        """The first rank whose ``value`` is not that of rank 0."""
        values = self.gather(what, value)
        return next((rank for rank, said in enumerate(values) if said != values[0]), None)

    def sum(self, tensor: Any) -> Any:
        """``tensor`` with the sum over all ranks in it."""
        return tensor

    def every(self, tensor: Any) -> list[Any]:
        """The ``tensor`` of every rank, by rank."""
        return [tensor]

    def copy(self, tensor: Any) -> None:
        """Put the first rank's ``tensor`` into that of every rank."""

    def check(self) -> None:
        """:class:`OtherRankError` where another rank has failed."""

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Turn what a broken collective raises into an error that names the rank it broke at."""
        yield

    def tell(self, error: OngpuError) -> bool:  # noqa: ARG002 - for several ranks
        """Stop the other ranks for ``error``; whether it is this rank's to print."""
        return True

    def leave(self) -> None:
        """Close what is open. Call it once, last."""


class Together(Alone):
    """One of several ranks."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.rank, self.local_rank, self.world_size = place.rank, place.local_rank, place.world_size
        self._host, self._hosts = socket.gethostname(), list[str]()
        self._store: Any = None
        self._shared = 0
        self._met = self._group = self._broken = False
        self._failure: Mapping[str, Any] | None = None
        self._left = threading.Event()

    def meet(self, word: Mapping[str, str]) -> list[dict[str, str]]:
        """Tell the others ``word`` and hear theirs, by rank; :class:`OtherRankError` where one cannot train."""
        words = self._words({**word, "host": self._host})
        failed = next((one for one in words if "message" in one), None)
        if failed:
            raise OtherRankError(failed)
        self._hosts = [one["host"] for one in words]
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()
        return words

    def _words(self, word: Mapping[str, Any]) -> list[dict[str, Any]]:
        self._met = True
        store = self._connect()
        store.set(f"word/{self.rank}", json.dumps({**word, "rank": self.rank}))
        until = time.monotonic() + MEETING_S
        return [json.loads(self._get(f"word/{rank}", until=until, of=rank)) for rank in range(self.world_size)]

    def _connect(self) -> Any:
        if self._store is None:
            self._store = self._client(hosts=self.rank == 0 and not self.place.launcher_has_store)
        return self._store

    def _client(self, *, hosts: bool) -> Any:
        import torch.distributed as dist  # noqa: PLC0415 - --help and a refused configuration need no torch

        try:
            store = dist.TCPStore(
                self.place.address,
                self.place.port,
                self.place.world_size,
                is_master=hosts,
                timeout=timedelta(seconds=MEETING_S),
                wait_for_workers=False,
                multi_tenant=True,
            )
        except RuntimeError as error:
            reason = f"rank {self.rank} cannot reach {self.place.address}:{self.place.port}: {_first_line(error)}"
            raise _no_meeting(reason) from None
        return dist.PrefixStore(f"ongpu/{self.place.attempt}", store)

    def _get(self, key: str, *, until: float | None = None, of: int = 0) -> str:
        """The value of ``key`` when it is there; ends early where another rank has failed."""
        pause = 0.005
        while not self._store.check([key]):
            self.check()
            if until is not None and time.monotonic() > until:
                raise _no_meeting(f"rank {of} of {self.world_size} has not come within {MEETING_S:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, 0.25)
        return str(self._store.get(key).decode())

    def start(self, device: str) -> None:
        """Open the connections for gradients and try them once."""
        import torch  # noqa: PLC0415 - see _client
        import torch.distributed as dist  # noqa: PLC0415 - see _client

        cuda = device == "cuda"
        try:
            dist.init_process_group(
                "nccl" if cuda else "gloo",
                store=dist.PrefixStore("group", self._store),
                rank=self.rank,
                world_size=self.world_size,
                timeout=timedelta(seconds=_COLLECTIVE_S),
                device_id=torch.device("cuda", torch.cuda.current_device()) if cuda else None,
            )
            self._group = True
            tried = torch.full((), self.rank + 1, device=device)
            dist.all_reduce(tried, async_op=True).wait(timedelta(seconds=_FIRST_COLLECTIVE_S))
            total = int(tried)
        except RuntimeError as error:
            self._await_failure()
            raise _no_meeting(f"rank {self.rank}: {_first_line(error)}") from None
        if total != self.world_size * (self.world_size + 1) // 2:
            raise _no_meeting(f"rank {self.rank}: a sum over all ranks came out as {total}")

    def share(self, name: str, make: Callable[[], _T]) -> _T:
        """What ``make`` returns on the first rank (of JSON's types); the others wait for it."""
        self._shared += 1
        key = f"shared/{self._shared}/{name}"
        if self.first:
            made = make()
            self._store.set(key, json.dumps(made))
            return made
        value: _T = json.loads(self._get(key))
        return value

    def gather(self, name: str, value: _T) -> list[_T]:
        """The ``value`` of every rank (of JSON's types), by rank."""
        self._shared += 1
        keys = [f"gathered/{self._shared}/{name}/{rank}" for rank in range(self.world_size)]
        self._store.set(keys[self.rank], json.dumps(value))
        return [json.loads(self._get(key)) for key in keys]

    def sum(self, tensor: Any) -> Any:
        """``tensor`` with the sum over all ranks in it."""
        import torch.distributed as dist  # noqa: PLC0415 - see _client

        dist.all_reduce(tensor)
        return tensor

    def every(self, tensor: Any) -> list[Any]:
        """The ``tensor`` of every rank, by rank."""
        import torch  # noqa: PLC0415 - see _client
        import torch.distributed as dist  # noqa: PLC0415 - see _client

        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(gathered, tensor)
        return gathered

    def copy(self, tensor: Any) -> None:
        """Put the first rank's ``tensor`` into that of every rank."""
        import torch.distributed as dist  # noqa: PLC0415 - see _client

        dist.broadcast(tensor, src=0)

    def check(self) -> None:
        """:class:`OtherRankError` where another rank has failed."""
        if self._failure is not None:
            raise OtherRankError(self._failure)

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Turn what a broken collective raises into an error that names the rank it broke at."""
        try:
            yield
        except RuntimeError as error:
            self.check()
            text = f"{type(error).__name__}: {error}"
            if not any(word in text for word in ("NCCL", "gloo", "Dist", "Connection", "abort")):
                raise
            self._await_failure()
            raise _no_meeting(f"rank {self.rank}: {_first_line(error)}") from error

    def _await_failure(self) -> None:
        """A collective broke: the rank at fault is about to say why, if it still can."""
        until = time.monotonic() + _UNAIDED_S
        while time.monotonic() < until:
            self.check()
            time.sleep(0.1)

    def tell(self, error: OngpuError) -> bool:
        """Stop the other ranks for ``error``; whether it is this rank's to print."""
        self._broken = True
        if isinstance(error, OtherRankError):
            return error.untold and self._first_to_tell()
        if self._met and self._store is None:
            return True  # this one never reached the others
        word = {"rank": self.rank, "host": self._host, "message": error.message}
        word |= {"next": error.next_step, "status": error.exit_status}
        try:
            if not self._met:
                said = [one.get("message") for one in self._words(word)]
                return said.index(error.message) == self.rank
            winner = json.loads(self._store.compare_set(_FAILED, "", json.dumps(word)))
        except (ImportError, RuntimeError, OngpuError):
            return True  # the store is gone, or somebody never came: then everybody speaks
        return bool(winner["rank"] == self.rank or winner["message"] != error.message)

    def _first_to_tell(self) -> bool:
        try:
            return bool(self._store.add("told", 1) == 1)
        except RuntimeError:
            return True

    def _watch(self) -> None:
        """Look for another rank's failure; get this one out of a collective that will never end."""
        try:
            store = self._client(hosts=False)  # one of its own: the other may be held by a call that waits
            seen: dict[int, tuple[int, float]] = {}
            while not store.check([_FAILED]):
                store.add(f"alive/{self.rank}", 1)
                if self.first and (silent := self._silent(store, seen)) is not None:
                    store.compare_set(_FAILED, "", json.dumps(self._gone(silent, f"silent for {_SILENT_S:.0f} s")))
                if self._left.wait(_LOOK_EVERY_S):
                    return
            word = json.loads(store.get(_FAILED))
        except (RuntimeError, OngpuError):
            word = self._gone(0, f"nobody answers at {self.place.address}:{self.place.port}")
        if word["rank"] == self.rank:
            return
        self._failure = word
        if self._left.wait(_UNAIDED_S):
            return
        self._abort()
        if not self._left.wait(_ABORTED_S):
            sys.stderr.write(f"error: rank {self.rank} did not come back after {OtherRankError(word).message}\n")
            sys.stderr.flush()
            os._exit(int(word["status"]))

    def _gone(self, rank: int, why: str) -> dict[str, Any]:
        """What a rank would have said that can say nothing any more."""
        return {
            "rank": rank,
            "host": self._hosts[rank],
            "message": f"it ended without a word ({why}).",
            "next": "Read what that rank said last, and continue with --resume where there is a checkpoint.",
            "status": 1,
            "untold": True,
        }

    def _silent(self, store: Any, seen: dict[int, tuple[int, float]]) -> int | None:
        """A rank that was killed, or whose host is gone; ``seen`` is the last sign of life of each, and when."""
        now = time.monotonic()
        for rank in range(1, self.world_size):
            count = store.add(f"alive/{rank}", 0)
            if rank not in seen or seen[rank][0] != count:
                seen[rank] = (count, now)
            elif now - seen[rank][1] > _SILENT_S:
                return rank
        return None

    def _abort(self) -> None:
        import torch.distributed as dist  # noqa: PLC0415 - see _client

        if self._group and dist.group.WORLD is not None:
            with contextlib.suppress(RuntimeError):
                dist.group.WORLD.abort()

    def leave(self) -> None:
        """Close what is open, when the others do. Call it once, last."""
        if self._store is None:
            return
        import torch.distributed as dist  # noqa: PLC0415 - see _client

        if threading.current_thread() is threading.main_thread():
            # a launcher ends all ranks when the first has left with an error: this one is about to leave too
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self._broken:
            self._abort()
        self._left.set()
        with contextlib.suppress(RuntimeError):
            everybody = self._count("left", self.world_size, _TOGETHER_S)
            if self.rank or self.place.launcher_has_store:
                self._store.add("gone", 1)
            else:  # the store ends with this process: not under somebody who still asks it
                self._count("gone", self.world_size, _TOGETHER_S if everybody else 1.0)
                time.sleep(0.05)
        if self._group:
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()

    def _count(self, key: str, count: int, patience_s: float) -> bool:
        """Be counted, and wait for the others to be; whether all came."""
        until = time.monotonic() + patience_s
        reached = self._store.add(key, 1)
        while reached < count and time.monotonic() < until:
            time.sleep(0.02)
            reached = self._store.add(key, 0)
        return bool(reached >= count)


def join(variables: Mapping[str, str]) -> Alone:
    """The ranks this process trains with; :class:`UsageError` where a launcher told it only half of what it needs."""
    place = Place.read(variables)
    return Alone() if place is None else Together(place)


def _no_meeting(reason: str) -> BlockedError:
    return BlockedError(
        f"The ranks cannot talk to each other: {reason.rstrip('.')}.",
        next_step="See that every rank was started, and that the nodes reach each other (NCCL_DEBUG=INFO says more).",
        cause=Cause.MULTI_GPU_COMM.value,
    )


def unexpected(error: BaseException) -> WorkError:
    """What the other ranks are told of an error nobody foresaw."""
    return WorkError(f"{type(error).__name__}: {_first_line(error)}", next_step="Read that rank's traceback.")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
