"""Can this environment train on this GPU; if not, why, and what to type. Nothing is imported, nothing is run."""

from ongpu.doctor.join import doctor
from ongpu.doctor.read import examine, read_code
from ongpu.doctor.report import DeviceReport, DoctorReport, Finding, InstalledCode, PackageReport, Weight

__all__ = [
    "DeviceReport",
    "DoctorReport",
    "Finding",
    "InstalledCode",
    "PackageReport",
    "Weight",
    "doctor",
    "examine",
    "read_code",
]
