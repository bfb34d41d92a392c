"""What NVIDIA's driver says of a GPU, through its C library: energy, clocks, throttling, power. No package is needed."""

from __future__ import annotations

import ctypes
from typing import Any

REASONS = {
    0x1: "idle", 0x2: "clocks set by an application", 0x4: "power cap", 0x8: "hardware slowdown", 0x10: "sync boost",
    0x20: "software thermal", 0x40: "hardware thermal", 0x80: "power brake", 0x100: "display clocks",
}  # fmt: skip
_SM = 1


class Meter:
    """Reads one GPU; every value is None where the library, the GPU or its rights do not give it.

    Args:
        uuid: of the GPU, as ``torch.cuda.get_device_properties(0).uuid``; None for the first one.
        library: in place of ``libnvidia-ml.so.1``.
    """

    def __init__(self, uuid: str | None = None, library: Any = None) -> None:
        self._library: Any = library
        self._handle = ctypes.c_void_p()
        try:
            self._library = library or ctypes.CDLL("libnvidia-ml.so.1")
            self._call("nvmlInit_v2")
            name = None if uuid is None else (uuid if uuid.startswith("GPU-") else f"GPU-{uuid}").encode()
            if name is None or not self._works("nvmlDeviceGetHandleByUUID", name, ctypes.byref(self._handle)):
                self._call("nvmlDeviceGetHandleByIndex_v2", 0, ctypes.byref(self._handle))
        except (OSError, AttributeError, RuntimeError):
            self._library = None

    def joules(self) -> float | None:
        """Energy since the driver was loaded; Volta and later."""
        found = self._number("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong)
        return None if found is None else found / 1e3

    def watts(self) -> float | None:
        """Power at this moment."""
        found = self._number("nvmlDeviceGetPowerUsage", ctypes.c_uint)
        return None if found is None else found / 1e3

    def power_cap(self) -> float | None:
        """Power above which clocks are lowered, in watts."""
        found = self._number("nvmlDeviceGetEnforcedPowerLimit", ctypes.c_uint)
        return None if found is None else found / 1e3

    def megahertz(self) -> float | None:
        """Clock of the multiprocessors."""
        return self._number("nvmlDeviceGetClockInfo", ctypes.c_uint, _SM)

    def most_megahertz(self) -> float | None:
        """The highest such clock."""
        return self._number("nvmlDeviceGetMaxClockInfo", ctypes.c_uint, _SM)

    def celsius(self) -> float | None:
        """Temperature of the chip."""
        return self._number("nvmlDeviceGetTemperature", ctypes.c_uint, 0)

    def ecc(self) -> bool | None:
        """Whether memory corrects errors."""
        current, pending = ctypes.c_uint(), ctypes.c_uint()
        fine = self._works("nvmlDeviceGetEccMode", self._handle, ctypes.byref(current), ctypes.byref(pending))
        return bool(current.value) if fine else None

    def throttled(self) -> list[str] | None:
        """What lowers the clocks at this moment."""
        found = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong)
        return None if found is None else [text for bit, text in REASONS.items() if int(found) & bit]

    def _number(self, function: str, kind: Any, *more: Any) -> float | None:
        value = kind()
        return float(value.value) if self._works(function, self._handle, *more, ctypes.byref(value)) else None

    def _works(self, function: str, *arguments: Any) -> bool:
        try:
            self._call(function, *arguments)
        except (RuntimeError, AttributeError):
            return False
        return True

    def _call(self, function: str, *arguments: Any) -> None:
        if self._library is None:
            raise RuntimeError("there is no libnvidia-ml")
        code = getattr(self._library, function)(*arguments)
        if code:
            raise RuntimeError(f"{function} returned {code}")


def meter_of(device: Any) -> Meter:
    """Return the meter of a torch device; one that knows nothing where it is not NVIDIA's."""
    if device.type != "cuda":
        return Meter(library=_Nothing())
    import torch

    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return Meter(None if uuid is None else str(uuid))


class _Nothing:
    """A library without functions."""
