"""What root may do in this thread; Linux calls it capabilities."""

from __future__ import annotations

import ctypes
import os

#: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: to read and write whatever the permissions say
PAST_PERMISSIONS = 1 << 1 | 1 << 2
_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def effective() -> int:
    """The capabilities in effect, the first 32."""
    return int(_read()[0])


def set_effective(those: int) -> None:
    """Put capabilities in effect, of those that are permitted."""
    data = _read()
    data[0] = those
    _call("capset", data)


def _read() -> ctypes.Array[ctypes.c_uint32]:
    data = (ctypes.c_uint32 * 6)()
    _call("capget", data)
    return data


def _call(name: str, data: ctypes.Array[ctypes.c_uint32]) -> None:
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    if getattr(_libc, name)(header, data) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
