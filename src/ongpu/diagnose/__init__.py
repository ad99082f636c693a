"""The cause of a failure, from a log alone: log bytes and rules -> findings. Pure."""

from ongpu.diagnose.decide import diagnose
from ongpu.diagnose.model import Diagnosis, Facts, Finding, Rejected, Sure

__all__ = ["Diagnosis", "Facts", "Finding", "Rejected", "Sure", "diagnose"]
