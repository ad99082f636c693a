"""The sentences a verdict is made of, each answered from readings and witnesses.

Profile ``enable`` answers the definition of done of the milestone, profile ``run`` what any command under guard can
prove. Every rule asks for what must be there: nothing is proven by something missing.
"""

from __future__ import annotations

from collections.abc import Iterable

from ongpu.domain.case import Answer, Case, child_ended_well, proven, refuted, unknown
from ongpu.domain.gpu_name import same_gpu
from ongpu.domain.readings import Readings, RoleReadings
from ongpu.domain.speed import REQUIRED_SPEED_RATIO, faster_than_cpu
from ongpu.domain.testimony import MIB, inside
from ongpu.domain.verdict import Claim, Outcome, WitnessState

EVIDENCE_FILES = ("env_info.txt", "torch_cuda_check.txt", "training_log.txt", "nvidia_smi.txt")
# A program of which nothing speaks from inside must hold more than a context with a library loaded (710 MiB seen).
COMPUTE_FLOOR_BYTES = 710 * MIB


def claims_of(case: Case) -> tuple[Claim, ...]:
    """Every claim of the journal's profile, the required ones first."""
    readings = case.readings
    if readings.profile == "enable":
        rows = [
            (
                "cuda-available",
                "torch.cuda.is_available() is True, without a warning about the GPU",
                cuda_available(case),
            ),
            ("expected-gpu", _expected_statement(readings), expected_gpu(case)),
            ("trained-on-cuda", "The training ran on CUDA, every step of it", trained_on_gpu(case)),
            ("memory-allocated", "GPU memory was allocated by the training process", memory_allocated(case)),
            ("evidence-saved", "The evidence was saved", evidence_saved(case)),
            ("no-silent-cpu", "Nothing of the training fell back to the CPU", no_silent_cpu(case)),
        ]
        claims = [_claim(name, statement, answer) for name, statement, answer in rows]
        faster = faster_than_cpu(case)
        statement = f"A training step on the GPU is at least {REQUIRED_SPEED_RATIO:g} times as fast as on the CPU"
        claims.append(_claim("faster-than-cpu", statement, faster, required=readings.compare_cpu))
        return (*claims, *_negative_control(case))
    claims = [_claim("trained-on-gpu", "The command trained on a GPU, every step of it", trained_on_gpu(case))]
    if readings.expect_gpu is not None:
        claims.append(_claim("expected-gpu", _expected_statement(readings), expected_gpu(case)))
    claims.append(
        _claim("memory-allocated", "GPU memory was allocated by the training process", memory_allocated(case))
    )
    claims.append(_claim("no-silent-cpu", "Nothing of the training fell back to the CPU", no_silent_cpu(case)))
    statement = "This process tree computed on a GPU"
    claims.append(_claim("computed-on-gpu", statement, computed_on_gpu(case), required=False))
    return (*claims, *_negative_control(case))


def _claim(name: str, statement: str, answer: Answer, *, required: bool = True) -> Claim:
    return Claim(
        id=name,
        statement=statement,
        outcome=answer.outcome,
        reason=answer.reason,
        required=required,
        observations=answer.observations,
    )


def _expected_statement(readings: Readings) -> str:
    if readings.expect_gpu is not None:
        return f"The GPU that trained is the expected one: {readings.expect_gpu}"
    return "The GPU that the probe found is the one that trained (no particular GPU was expected)"


def _negative_control(case: Case) -> tuple[Claim, ...]:
    """W6, where it was run: the same command with CUDA hidden must not pass by the same rules."""
    role = case.readings.roles["negative-control"]
    if role.start_seq is None:
        return ()
    w1 = inside(role)
    if role.argv != case.role.argv:
        answer = unknown("the control ran another command", role.start_seq)
    elif role.status is None or role.interrupted:
        answer = unknown("the control did not end by itself", role.start_seq)
    elif w1.state is WitnessState.CONTRADICTED:
        answer = proven(f"W1 contradicts it: {w1.reason}", *w1.observations, role.exit_seq)
    elif w1.state is WitnessState.CONFIRMED:
        answer = refuted(f"W1 confirms it although CUDA was hidden: {w1.reason}", *w1.observations)
    elif role.stopped_reason is not None:
        answer = unknown(f"the control was stopped: {role.stopped_reason}; W1 {w1.state.value}", role.exit_seq)
    elif role.status != 0 and not any(source.stepping for source in role.hooks.values()):
        answer = proven(f"it failed with status {role.status} before any step", role.exit_seq)
    else:
        answer = unknown(f"W1 {w1.state.value}: {w1.reason}", role.exit_seq)
    statement = "The same command with CUDA hidden is not taken for GPU training"
    return (_claim("negative-control", statement, answer, required=False),)


def _witnessed(case: Case) -> Answer:
    """W1 and who stands beside it, and nobody against: the heart of every training claim."""
    for witness in (case.w1, case.outside, case.w5):
        if witness is not None and witness.state is WitnessState.CONTRADICTED:
            return refuted(f"{witness.name}: {witness.reason}", *witness.observations)
    for witness in (case.w1, case.outside):
        if witness.state is not WitnessState.CONFIRMED:
            return unknown(f"{witness.name} {witness.state.value}: {witness.reason}", *witness.observations)
    strange = _strange_machine(case, {one.uuid for one in case.pairs})
    if strange is not None:
        return strange
    told = [case.w1, case.outside]
    reason = f"W1: {case.w1.reason}. {case.outside.name} ({case.outside.level}-level): {case.outside.reason}"
    if case.w5 is not None and case.w5.state is WitnessState.CONFIRMED and case.outside.name != "W4+W5":
        told.append(case.w5)
        reason += f". W5: {case.w5.reason}"
    return proven(reason, *(seq for witness in told for seq in witness.observations))


def _strange_machine(case: Case, uuids: Iterable[str]) -> Answer | None:
    """Why the machine, as the probe read it, does not carry what NVML said of these devices."""
    readings = case.readings
    if readings.machine_uuids is None:
        return unknown("what machine this is was not recorded")
    if readings.driverless is not None:
        return unknown(readings.driverless, readings.machine_seq)
    strangers = sorted(set(uuids) - set(readings.machine_uuids))
    return unknown(f"the probe did not see {', '.join(strangers)}", readings.machine_seq) if strangers else None


def trained_on_gpu(case: Case) -> Answer:
    """Every optimizer step of every process on CUDA, seen from inside and from outside, and the command succeeded."""
    answer = _witnessed(case)
    if answer.outcome is Outcome.REFUTED:
        return answer
    ended = child_ended_well(case)
    if ended is not None:
        return ended
    if not case.role.hooks and answer.outcome is Outcome.UNKNOWN:
        return unknown(
            "nothing spoke from inside the program, so at most computing can be shown, and whether it trained "
            f"stays unknown. {answer.reason}"
        )
    return answer


def no_silent_cpu(case: Case) -> Answer:
    """Every process that stepped did so on CUDA, the device that was asked for was honored, and steps were made."""
    asked = case.readings.requested_device
    answer = trained_on_gpu(case)
    if answer.outcome is Outcome.PROVEN and asked is not None and asked.partition(":")[0] not in {"cuda", "auto"}:
        return refuted(f"the device asked for is {asked}", case.readings.run_seq)
    return answer


def memory_allocated(case: Case) -> Answer:
    """Torch reports allocated bytes on the device, and the driver agrees."""
    if case.outside.state is WitnessState.CONTRADICTED:
        return refuted(f"{case.outside.name}: {case.outside.reason}", *case.outside.observations)
    samples = [
        (sample, held) for source in case.role.hooks.values() for sample in source.samples for held in sample.memory
    ]
    most = max((held.allocated or 0 for _, held in samples), default=0)
    stepping = [source for source in case.role.hooks.values() if source.stepping]
    if stepping and not samples and case.w1.state is WitnessState.CONTRADICTED:
        return refuted(f"the training process held no GPU memory at any step: {case.w1.reason}", *case.w1.observations)
    ended = child_ended_well(case)
    if ended is not None:
        return ended
    if not stepping or most == 0:
        return unknown(f"no training process reported allocated GPU memory. {case.w1.reason}", *case.w1.observations)
    without = next(
        (one for one in stepping if not any((h.allocated or 0) > 0 for s in one.samples for h in s.memory)), None
    )
    if without is not None:
        return unknown(f"{without.label} reported no allocated GPU memory")
    if case.w1.state is not WitnessState.CONFIRMED:
        return unknown(f"W1 {case.w1.state.value}: {case.w1.reason}", *case.w1.observations)
    if case.outside.state is not WitnessState.CONFIRMED:
        return unknown(f"{case.outside.name} {case.outside.state.value}: {case.outside.reason}")
    strange = _strange_machine(case, {one.uuid for one in case.pairs})
    if strange is not None:
        return strange
    seqs = [sample.seq for sample, held in samples if held.allocated == most]
    reason = f"up to {most / MIB:.0f} MiB allocated, by the process' own word; {case.outside.reason}"
    return proven(reason, *seqs, *case.outside.observations)


def expected_gpu(case: Case) -> Answer:
    """The devices that trained, by UUID, are the ones expected by name, or else found by the probe."""
    role, readings = case.role, case.readings
    uuids = sorted({one.uuid for one in case.pairs})
    if not uuids:
        return _expected_without_training(case)
    ended = child_ended_well(case)
    if readings.expect_gpu is None:
        strange = _strange_machine(case, uuids)
        if strange is not None:
            return strange
        answer = proven(f"{', '.join(uuids)} trained, as the probe found it", readings.machine_seq)
    else:
        answers = [_same_device(role, uuid, readings.expect_gpu) for uuid in uuids]
        order = [Outcome.REFUTED, Outcome.UNKNOWN, Outcome.PROVEN]
        answer = min(answers, key=lambda one: order.index(one.outcome))
    if answer.outcome is not Outcome.PROVEN:
        return answer
    if ended is not None:
        return ended
    witnessed = _witnessed(case)
    if witnessed.outcome is not Outcome.PROVEN:
        return unknown(f"{answer.reason}, but that it trained is not proven. {witnessed.reason}", *answer.observations)
    return answer


def _same_device(role: RoleReadings, uuid: str, expected: str) -> Answer:
    device = role.baseline.get(uuid)
    if device is None:
        return unknown(f"NVML did not name {uuid}")
    match = same_gpu(expected, name=device.name, uuid=uuid, memory_bytes=device.memory_bytes)
    reason = f"{device.name} ({uuid}) trained: {match.reason}"
    return Answer(outcome=match.outcome, reason=reason, observations=(device.seq,))


def _expected_without_training(case: Case) -> Answer:
    """Nothing trained on a device: the expectation can still be refuted by what is in the machine."""
    expected, baseline = case.readings.expect_gpu, case.role.baseline
    if expected is not None and baseline:
        matches = [
            same_gpu(expected, name=one.name, uuid=one.uuid, memory_bytes=one.memory_bytes) for one in baseline.values()
        ]
        if all(match.outcome is Outcome.REFUTED for match in matches):
            seqs = [one.seq for one in baseline.values()]
            return refuted(f"no GPU of this machine is it: {'; '.join(match.reason for match in matches)}", *seqs)
    return unknown("no training on a GPU was reported")


def cuda_available(case: Case) -> Answer:
    """The check before, and the training process itself."""
    checks = [one for one in case.readings.smoke if one[1] == "torch_cuda_check"]
    for seq, _, outcome, figures in checks:
        if outcome == Outcome.REFUTED or figures.get("is_available") is False:
            return refuted("torch_cuda_check: torch.cuda.is_available() is not True in this environment", seq)
    if case.warnings:
        return refuted(f"torch warned: {case.warnings[0][1]}", case.warnings[0][0])
    if not any(outcome == Outcome.PROVEN for _, _, outcome, _ in checks):
        return unknown("torch_cuda_check was not made, or gave no answer", *(one[0] for one in checks))
    stepping = [source for source in case.role.hooks.values() if source.stepping]
    ends = [source.end for source in stepping if source.end is not None]
    if not ends or len(ends) != len(stepping):
        return unknown("the training process did not say whether CUDA was available to it", *(one[0] for one in checks))
    for end in ends:
        if not end.cuda_initialized or end.is_available is not True:
            return unknown("the training process had not initialized CUDA at its end", end.seq)
    if case.w1.state is not WitnessState.CONFIRMED:
        return unknown(f"W1 {case.w1.state.value}: {case.w1.reason}", *case.w1.observations)
    seqs = [*(one[0] for one in checks), *(end.seq for end in ends)]
    return proven("it was True in the check before the training and in the training process itself", *seqs)


def evidence_saved(case: Case) -> Answer:
    """The four raw files of the milestone are listed with their digests; the README is written from this verdict."""
    files = case.readings.files
    if files is None:
        return unknown("the list of files was not recorded")
    seq, found = files
    missing = [name for name in EVIDENCE_FILES if name not in found]
    if missing:
        return unknown(f"{', '.join(missing)} not saved", seq)
    for name in EVIDENCE_FILES:
        size, digest = found[name]
        if size == 0:
            return refuted(f"{name} is empty", seq)
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            return unknown(f"{name} has no SHA-256", seq)
    return proven(f"{', '.join(EVIDENCE_FILES)} saved, with their digests in the journal", seq)


def computed_on_gpu(case: Case) -> Answer:
    """For any program: the driver lists a process of the tree with more than a context, and the device worked."""
    role = case.role
    ended = child_ended_well(case)
    if ended is not None:
        return ended
    if role.sampler_problem:
        return unknown(role.sampler_problem)
    seqs: dict[tuple[int, str], list[int]] = {}
    for sample in role.samples:
        for uuid, device in sample.devices.items():
            for pid, used in (device.processes or {}).items():
                if pid in role.tree and used is not None and used > COMPUTE_FLOOR_BYTES:
                    seqs.setdefault((pid, uuid), []).append(sample.seq)
    lasting = {key: found for key, found in seqs.items() if len(found) >= 2 and _new_on(role, key)}
    if not lasting:
        return unknown("the driver listed no process of this command with more memory than a bare context takes")
    if case.w4.state is not WitnessState.CONFIRMED:
        return unknown(f"memory was held, but W4 {case.w4.state.value}: {case.w4.reason}")
    working = {key: found for key, found in lasting.items() if key in role.sm_used}
    if not working:
        pid, uuid = max(lasting, key=lambda key: len(lasting[key]))
        return unknown(
            f"process {pid} held memory on {uuid} and the device used energy above idle, but the driver did not say "
            "that this process used it: the work may have been another program's",
            *lasting[(pid, uuid)],
        )
    (pid, uuid), found = max(working.items(), key=lambda one: len(one[1]))
    strange = _strange_machine(case, {uuid})
    if strange is not None:
        return strange
    reason = (
        f"process {pid} was listed on {uuid} in {len(found)} readings with more memory than a context takes, used its "
        f"SMs, and the device used energy above idle ({case.w4.reason}). What it computed is not known"
    )
    return proven(reason, *found[:8], *role.sm_used[(pid, uuid)][:8])


def _new_on(role: RoleReadings, key: tuple[int, str]) -> bool:
    before = role.baseline.get(key[1])
    return before is not None and before.now.processes is not None and key[0] not in before.now.processes
