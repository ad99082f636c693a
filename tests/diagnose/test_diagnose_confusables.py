"""Pairs of logs that look alike and mean different things: each one named in the issue that asked for this command."""

import pytest

from ongpu.diagnose import diagnose

_NO_KERNEL = "RuntimeError: CUDA error: no kernel image is available for execution on the device"
_COUNT = "UserWarning: CUDA initialization: Unexpected error from cudaGetDeviceCount()."
_GB10 = (
    "UserWarning: Found GPU0 NVIDIA GB10 which is of cuda capability 12.1.\n"
    "Minimum and Maximum cuda capability supported by this version of PyTorch is (8.0) - (12.0)\n"
)
_STEPS = "".join(f"step {number} loss {3 - number / 10:.2f}\n" for number in range(1, 8))

PAIRS = {
    # "no kernel image": the wheel's, or an extension's while torch covers the GPU
    "no-kernel, the build lacks the GPU": (
        "wheel-no-arch",
        f"torch 2.5.1+cu124\nNVIDIA GeForce RTX 5090\n{_NO_KERNEL}",
    ),
    "no-kernel, the build covers the GPU": (
        "extension-no-arch",
        f"torch 2.7.1+cu128\nNVIDIA GeForce RTX 5090\n{_NO_KERNEL}",
    ),
    "no-kernel, an extension's frame": (
        "extension-no-arch",
        f'  File "/venv/lib/python3.11/site-packages/flash_attn/flash_attn_interface.py", line 90\n{_NO_KERNEL}',
    ),
    # Error 2: counting devices allocates nothing
    "error 2 while devices are counted": ("driver-broken", f"{_COUNT} Error 2: out of memory"),
    "out of memory while allocating": (
        "out-of-memory",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23 GiB",
    ),
    # nvidia-smi says no, for different reasons
    "a scheduler allocated no GPU": (
        "no-gpu-visible",
        "SLURM_JOB_ID=4711\nSLURM_JOB_GPUS=\n+ nvidia-smi\nNo devices were found\n"
        "RuntimeError: No CUDA GPUs are available",
    ),
    "the driver does not answer": (
        "driver-broken",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
        "NVIDIA driver is installed and running.",
    ),
    # the numbers, by CUDA generation
    "803": ("driver-broken", f"{_COUNT} Error 803: system has unsupported display driver / cuda driver combination"),
    "804, nothing else known": (
        "driver-too-old",
        f"{_COUNT} Error 804: forward compatibility was attempted on non supported HW",
    ),
    "804 over a driver that is too old": (
        "driver-too-old",
        f"torch 2.11.0+cu130\nDriver Version: 535.183.01\n{_COUNT} Error 804: forward compatibility was attempted "
        "on non supported HW",
    ),
    "802": ("driver-broken", f"{_COUNT} Error 802: system not yet initialized"),
    "999": ("driver-broken", "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment"),
    "30, which became 999": (
        "driver-broken",
        "RuntimeError: cuda runtime error (30) : unknown error at THCGeneral.cpp:50",
    ),
    "46": ("device-busy", "RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable"),
    "46 by its number alone": ("device-busy", "cuda call failed with error code 46"),
    "35": ("driver-too-old", "CUDA driver version is insufficient for CUDA runtime version"),
    "35 by its number alone": ("driver-too-old", "[E] [TRT] CUDA initialization failure with error 35."),
    "38, which became 100": (
        "no-gpu-visible",
        "RuntimeError: cuda runtime error (38) : no CUDA-capable device is detected",
    ),
    "100": ("no-gpu-visible", f"{_COUNT} Error 100: no CUDA-capable device is detected"),
    "48, which became 209": (
        "wheel-no-arch",
        "Tesla K40m\ntorch 1.4.0\nRuntimeError: cuda runtime error (48) : no kernel image is available for execution "
        "on the device at /pytorch/aten/src/THC/THCGeneral.cpp:50",
    ),
    # too old, too new
    "PTX newer than the driver": (
        "driver-too-old",
        "RuntimeError: CUDA error: the provided PTX was compiled with an unsupported toolchain.",
    ),
    "too old: the GPU": (
        "wheel-no-arch",
        "Found GPU0 Tesla K80 which is of cuda capability 3.7.\nPyTorch no longer supports this GPU because it "
        "is too old.",
    ),
    "too old: the driver": (
        "driver-too-old",
        "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver",
    ),
    "too old for this driver: the GPU": (
        "driver-too-new",
        "NVRM: The NVIDIA GeForce GTX 1080 GPU installed in this system is\nNVRM:  supported through the NVIDIA 580.xx "
        "Legacy drivers. Please\nNVRM:  The 595.58.03 NVIDIA driver will ignore\nNVRM:  this GPU.",
    ),
    # CPU builds that do not say so in their name
    "no +cpu in the name": (
        "cpu-only-torch",
        ">>> torch.__version__\n'2.9.1'\n>>> torch.version.cuda\n>>> torch.zeros(1).cuda()\n"
        "AssertionError: Torch not compiled with CUDA enabled",
    ),
    # kernel modules
    "Blackwell under proprietary modules": (
        "driver-broken",
        "NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:2b85)\nNVRM: installed in this system requires use of the "
        "NVIDIA open kernel modules.\nNVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x22:0x56:884)\n$ nvidia-smi\n"
        "No devices were found",
    ),
    # harmless
    "the GB10 warning, and a run": ("healthy", f"{_GB10}Using device: cuda:0\n{_STEPS}training finished in 9 s"),
    "warnings, and a run": (
        "healthy",
        f"UserWarning: CUDA is not deterministic here, errors occur\nUsing device: cuda:0\n{_STEPS}training finished",
    ),
    # compilers
    "nvcc refuses: the toolkit": ("cuda-version-mismatch", "nvcc fatal   : Unsupported gpu architecture 'compute_120'"),
    "ptxas refuses: Triton's own": (
        "wheel-no-arch",
        "triton.runtime.errors.PTXASError\nptxas fatal   : Value 'sm_120' is not defined for option 'gpu-name'",
    ),
    "torchvision::nms on CUDA": (
        "python-env",
        "NotImplementedError: Could not run 'torchvision::nms' with arguments from the 'CUDA' backend.",
    ),
    # what may happen, and what did
    "a hint about memory, and a run": (
        "healthy",
        f"Using device: cuda\nIf you get a CUDA out of memory error, lower --batch-size\n{_STEPS}",
    ),
    "a hint about memory, and another failure": (
        "device-busy",
        "If you get a CUDA out of memory error, lower --batch-size\n"
        "RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable",
    ),
    "NCCL's warning at the end of a run": (
        "healthy",
        f"Using device: cuda:0\n{_STEPS}[rank0]:[W1122 13:54:52.762518966 ProcessGroupNCCL.cpp:1575] Warning: WARNING: "
        "destroy_process_group() was not called before program exit, which can leak resources.",
    ),
    "mixed precision that is not used": (
        "healthy",
        "Using device: cuda\nAMP: checks failed . Anomalies were detected with AMP on your system that may lead to NaN "
        f"losses\n{_STEPS}",
    ),
    # a symbol that is not there: the driver's, or torch's
    "a symbol that libcuda lacks": (
        "driver-too-old",
        "ImportError: /venv/lib/x.so: undefined symbol: cuGetProcAddress_v2, version libcuda.so.1",
    ),
    "a symbol that torch lacks": (
        "python-env",
        "ImportError: /venv/lib/python3.11/site-packages/mmcv/_ext.so: undefined symbol: "
        "_ZN3c105ErrorC2ENS_14SourceLocationESs",
    ),
    "nvrtc refuses: the build's own": (
        "wheel-no-arch",
        "RuntimeError: nvrtc: error: invalid value for --gpu-architecture (-arch)",
    ),
    # a worker, or a rank, that ended without a word of why
    "a worker that ended": ("undetermined", "RuntimeError: DataLoader worker (pid(s) 4711) exited unexpectedly"),
    "a worker without shared memory": (
        "out-of-memory",
        "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).",
    ),
    # Xid 45 cleans up after another one, Xid 13 is the program's
    "Xid 45 after a hardware one": (
        "hardware-fault",
        "NVRM: Xid (PCI:0000:dc:00): 45, pid=1, name=python3, Ch 00000001 caused by previous Xid 149",
    ),
    "Xid 13": (
        "program-error",
        "NVRM: Xid (PCI:0000:cb:00): 13, pid=4711, name=python, Graphics SM Warp Exception on (GPC 7, TPC 7, SM 0): "
        "Out Of Range Address",
    ),
    # no error at all
    "trained on the CPU without a word": ("silent-cpu", f"Using device: cpu\n{_STEPS}training finished in 812 s"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_confusable(name: str) -> None:
    cause, log = PAIRS[name]
    found = diagnose(f"{log}\n".encode())
    assert found.cause.value == cause, (found.reason, found.findings, found.rejected)
    assert found.next_step
