"""Observations: timestamped readings, the only thing a verdict is computed from.

A journal is a sequence of observations, one JSON object a line, written by the supervisor alone:

``{"seq": 7, "prev": "<sha256 hex>", "t_wall": 1763800000.123456, "t_mono": 5123.456789, "kind": "nvml.sample",
"data": {...}}``

``seq`` counts from 0 without gaps. ``prev`` is the chain value of the line before (64 zeros first); the chain
value of a line is ``sha256(prev_hex_ascii + line_bytes_without_newline)``. ``t_wall`` is seconds since the
epoch, ``t_mono`` seconds of the supervisor's monotonic clock (on Linux one clock for all processes).

Kinds and their ``data``. Bytes are integers, times ``t_mono`` seconds of the monotonic clock, taken where the
reading was taken; a value that could not be read is null, with a sibling ``<name>_reason`` where a reason is
known. ``role`` is the guarded command the reading belongs to: ``train``, ``cpu-comparison``, or
``negative-control`` (the same command with CUDA hidden). Unknown fields are ignored.

The run (written by whoever joins the rooms)

``run.start``: ``run_id``, ``profile`` (``enable`` | ``run``), ``argv`` [], ``expect_gpu`` (text | null),
    ``simulated``, ``compare_cpu``, ``requested_device`` (text | null, optional), tool version, boot id.
    First, and once.
``machine``: ``Machine`` as the probe read it: ``devices`` [{``uuid``, ``name``, ...}], ``simulated``,
    ``driver`` {``loaded``, ``kernel_mode``}, ``device_files``, ``libraries`` [{``name``, ``version``}], ...
    Nothing is proven of a device that is not in it, or where no driver can have answered
``plan``, ``environment``, ``install``, ``scan``: what those phases say; no claim rests on them
``smoke``: one check: ``name``, ``outcome``, ``reason``, ``figures`` {}. ``torch_cuda_check`` with
    ``figures.is_available`` false refutes ``cuda-available``
``text``: a text file taken: ``name``, ``while`` (the ``seq`` of the step it was taken beside)
``files``: ``files`` [{``name``, ``size_bytes``, ``sha256``}]: the bundle's files so far; the last list counts
``phase``: ``name``, ``outcome``, ``seconds``
``blocked``: ``phase``, ``cause``, ``reason``, ``lines``, ``next_step``, ``done`` (phases), ``not_tried`` (texts)
``run.end``: ``end`` (``completed`` | ``failed`` | ``interrupted`` | ``blocked``), ``observations`` (how many
    came before: its own ``seq``; optional). Last, and once. Nothing is proven unless ``end`` is
    ``completed``.

A guarded command (written by the guard's session)

``child.start``: ``role``, ``argv`` [], ``pid``, ``start_time``, ``supervisor_pid``, ``trace_steps`` (how many steps
    a kernel trace was asked for; null: none was). Once a role.
``child.exit``: ``role``, ``pid``, ``status`` (128 + n after signal n), ``signal`` (name | null), ``seconds``,
    ``interrupted``, ``stopped`` (``fail-fast`` | ``timeout`` | null), ``stopped_reason``. Once a role.
``guard.end``: ``role``, ``hooks`` [{``source``, ``pid``, ``records``}]: how many records of each process were
    taken; ``hook_files_refused``, ``sampler_lines`` (how many lines were taken, ``sampler.end`` included),
    ``sampler_error`` (text | null), ``left_behind``, ``log_bytes``, ``log_sha256``, ``log_dropped_bytes``,
    ``log_error``. Once a role, after everything else of it.

Seen from outside (lines of the sampler, in its order: ``n`` counts from 0 without gaps over all of these
kinds)

``baseline``: ``role``, ``n``, ``t_mono``, ``kernel_mode``, ``devices`` [a device as in ``nvml.sample``, and
    ``name``, ``memory_bytes`` (total), ``compute_capability``, ``pci_bus_id``, ``mig``, ``energy_start_mj``,
    ``energy_end_mj``, ``energy_seconds``], ``pace``: before the command starts. ``pace`` declares how often later
    readings are written (:class:`ongpu.guard.pace.Pace`), so that a long run has gaps that are no losses
``tree``: ``role``, ``n``, ``t_mono``, ``processes`` [{``pid``, ``ppid``, ``start_time``}]: when it changed; those
    seen since the line before.
    ``start_time``: seconds since boot, 0.01 s (Linux); psutil's ``create_time`` elsewhere
``nvml.sample``: ``role``, ``n``, ``t_mono``, ``devices`` [{``uuid``, ``memory_used_bytes``,
    ``utilization_percent``, ``power_mw``, ``processes`` [{``pid``, ``used_bytes`` (null: hidden, never 0)}] |
    null, ``since``}], ``readings``. Every compute process the driver lists is kept, the run's or not. ``readings``
    counts those taken since the line before, this one included; where they are several, ``since`` has the
    [least, greatest] of each figure over them
``energy``: ``role``, ``n``, ``t_mono``, ``devices`` [{``uuid``, ``energy_mj`` (since the driver was loaded),
    ``sm_percent`` [{``pid``, ``percent``}] | null: SM use by process since the reading before. A pid of this
    list counts only where ``nvml.sample`` lists it too}]
``nvml.error``: ``role``, ``n``, ``t_mono``, ``uuid`` | null, ``what``, ``code``, ``reason``: told once each
``sampler.end``: ``role``, ``n``, ``t_mono``, ``lines`` (how many came before)

Claimed from inside: ``hook``, one record of one process, in its own words. The supervisor adds ``role`` and
``source`` (the file it came from, one a process). Every record has ``record``, ``n`` (from 0 without gaps in
its source), ``pid``, ``t_mono``; by ``record``:

``torch``: the program imported ``torch.optim`` (or a forked child began to train): ``ppid``, ``start_time``
    (as in ``tree``; null off Linux), ``version``, ``cuda``, ``hip``, ``python``, ``rank``, ``world_size``
``step``: a full sample after an optimizer step: ``step`` (of the process), ``optimizer`` (its number),
    ``optimizer_class``, ``optimizer_step``, ``final`` (taken at the exit: its memory counts, its
    places speak of no step), ``parameters``, ``gradients``, ``state`` {device: bytes, as ``"cuda:0"``}: trainable
    parameters only, 0-dimensional state (Adam's step
    counter) left out and counted in ``scalars_excluded``; ``devices`` [{``device``, ``uuid``, ``name``,
    ``compute_capability``, ``allocated_bytes``, ``reserved_bytes``, ``max_reserved_bytes``}] once CUDA is
    initialized.
    The first 5 steps of each optimizer, then at most one a second, at each change of place, and at the exit
``times``: ``times`` [[step, t_mono], ...]: every step, thinned where steps follow within 5 ms
``trace``: the kernel trace, at most once a process that steps: ``state`` (``traced`` | ``unavailable`` | ``error``),
    ``wanted`` (steps); ``reason`` and, of an error, ``code`` where it is not ``traced``. Else a digest of what the
    profiler recorded between ``t_began`` and ``t_ended``, the ends of two steps: ``unit`` (``step``, or ``replay`` of
    a CUDA graph in which the optimizer's step is), ``steps`` [[number, kernels the host launched in it, their time in
    nanoseconds], ...], ``unplaced`` (kernels of no known step), ``copies`` (copies and fills), ``launches``,
    ``graph_launches`` (calls of the host, of graphs among them), ``on_devices`` [{``device``, ``uuid``, ``kernels``,
    ``busy_ns`` (with kernels or copies; where they overlap it counts once)}], ``names`` (how many kernels by name),
    ``kernels`` [{``name``, ``count``, ``device_ns``}] (the 10 that took longest), ``control`` (the hook's own kernel,
    launched last and counted nowhere else, was recorded), ``truncated`` (there were more events than were looked
    at), ``cost_s`` (to start and to read it)
``warning``: ``text`` of a warning about compute capability
``error``: ``where``, ``type``, ``text``: the hook itself failed; the process went on
``end``: ``devices`` [as in ``step``, those that were sampled],
    ``steps``, ``created``, ``never_stepped`` (optimizers), ``cuda_initialized``, ``is_available`` (null
    where CUDA was not initialized), ``errors``, ``records`` (how many, this one included), ``optimizers``
    [{``optimizer``, ``optimizer_class``, ``steps``, ``off_cuda_steps`` (steps after which any parameter or
    gradient was not on CUDA: every step is looked at), ``last_sampled_step``, ``last`` {``step``,
    ``parameters_on_cuda``, ``parameters``, ``gradients_on_cuda``, ``gradients``: counts of tensors}}]
``malformed``: ``reason``: a line of the hook's file that is no record; put in its place by the supervisor
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One line of the journal, without its chain value."""

    seq: int
    t_wall: float
    t_mono: float
    kind: str
    data: Mapping[str, object]


class Recorder(Protocol):
    """Where a room hands its observations; returns the sequence number given to it."""

    def record(self, kind: str, data: Mapping[str, object]) -> int:
        """Append one observation and return its ``seq``."""
        ...
