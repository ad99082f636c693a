"""The doors to the outside: NVML, libcuda, the host, processes. One Protocol, one real class, one translation each."""
