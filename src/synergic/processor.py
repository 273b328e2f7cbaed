"""What Linux says of the processor. The command asks before PyTorch starts, so this does without it."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def cpu_flags(cpuinfo: Path = CPUINFO) -> set[str]:
    """The processor's feature flags, as Linux lists them; empty elsewhere."""
    return set(cpu_information("flags", cpuinfo).split()) | set(cpu_information("Features", cpuinfo).split())


def cpu_information(key: str, cpuinfo: Path = CPUINFO) -> str:
    """What Linux says of the first processor under `key`, such as "model name"; nothing elsewhere."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
