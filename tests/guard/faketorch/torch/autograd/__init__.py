"""As torch's own."""

from torch.autograd import profiler


def _profiler_enabled() -> bool:
    return bool(profiler.running)


__all__ = ["_profiler_enabled", "profiler"]
