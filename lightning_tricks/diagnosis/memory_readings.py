"""How much memory is used and free, on the accelerator and on the host. Readings only: nothing is reset."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")


@dataclass(frozen=True)
class Reading:
    """What was read, in bytes; NaN where the platform does not tell.

    Args:
        allocated: by tensors on the accelerator; NaN on a CPU.
        reserved: by torch on the accelerator, with what its caching allocator keeps for later.
        peak: the largest ``allocated`` so far.
        resident: memory of this process on the host.
        device_free: on the accelerator.
        host_free: on the host, or of the limit of its container.
    """

    allocated: float = math.nan
    reserved: float = math.nan
    peak: float = math.nan
    resident: float = math.nan
    device_free: float = math.nan
    host_free: float = math.nan

    @property
    def on_device(self) -> bool:
        """Whether there is an accelerator."""
        return not math.isnan(self.allocated)

    @property
    def used(self) -> float:
        """What may grow: memory of the accelerator where there is one, of the process otherwise."""
        return self.allocated if self.on_device else self.resident

    @property
    def free(self) -> float:
        """What is left for it; inf where that is not known. The allocator's cache can be used too."""
        if not self.on_device:
            return math.inf if math.isnan(self.host_free) else self.host_free
        cached = 0.0 if math.isnan(self.reserved) else self.reserved - self.allocated
        return math.inf if math.isnan(self.device_free) else self.device_free + cached


class MemoryReader:
    """Reads the memory of one device and of the host.

    Args:
        device: of the training.

    Example:
        >>> reading = MemoryReader(torch.device("cpu")).read()
        >>> reading.on_device, reading.resident > 1e6
        (False, True)
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._backend: Any = None if device.type == "cpu" else getattr(torch, device.type, None)

    def read(self) -> Reading:
        """Return what is used now. The device is not waited for: its allocator is asked, which is on the host."""
        return Reading(
            allocated=self._ask("memory_allocated", "current_allocated_memory"),
            reserved=self._ask("memory_reserved", "driver_allocated_memory"),
            peak=self._ask("max_memory_allocated"),
            resident=resident_bytes(),
            device_free=self._device_free(),
            host_free=host_free_bytes(),
        )

    def _ask(self, *names: str) -> float:
        """Return what the first function gives that this backend has; in the end the device-agnostic one is asked."""
        if self._backend is None:
            return math.nan
        for owner in (self._backend, getattr(torch, "accelerator", None)):
            for name in names:
                function = getattr(owner, name, None)
                if function is None:
                    continue
                with contextlib.suppress(RuntimeError, TypeError, AttributeError, AssertionError):
                    # (torch.mps takes no device)
                    return float(function() if name.startswith(("current", "driver")) else function(self._device))
        return math.nan

    def _device_free(self) -> float:
        function = getattr(self._backend, "mem_get_info", None)
        if function is not None:
            with contextlib.suppress(RuntimeError, TypeError, AssertionError):
                return float(function(self._device)[0])
        most = getattr(self._backend, "recommended_max_memory", None)
        return math.nan if most is None else float(most()) - self._ask("driver_allocated_memory")


def resident_bytes(statm: str = "/proc/self/statm") -> float:
    """Return the memory that this process has in use; its peak where only that can be read (macOS).

    Args:
        statm: of Linux; its second number counts pages.
    """
    try:
        return float(Path(statm).read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError, AttributeError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    # (kilobytes, but on macOS bytes)
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def host_free_bytes(meminfo: str = "/proc/meminfo", cgroup: tuple[str, str] = _CGROUP) -> float:
    """Return the memory of the host that is still available, within the limit of a container; NaN if not known.

    Args:
        meminfo: of Linux.
        cgroup: limit and use of a container.
    """
    free = math.nan
    with contextlib.suppress(OSError, IndexError, ValueError):
        lines = Path(meminfo).read_text().splitlines()
        free = 1024.0 * float(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with contextlib.suppress(OSError, ValueError):  # (without a limit the first one holds "max")
        left = float(Path(cgroup[0]).read_text()) - float(Path(cgroup[1]).read_text())
        free = left if math.isnan(free) else min(free, left)
    return free
