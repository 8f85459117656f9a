"""Runs as a program of its own, in the environment of a server: what a CUDA process there gets of device 0.

Prints one line of JSON: ``multiprocessors`` (the SMs that it sees), ``memory_total`` and ``memory_free`` (bytes), or
``error``. It asks the driver itself, so that it needs nothing but the standard library, and it is gone in a second.
"""

from __future__ import annotations

import json

LIBRARY = "libcuda.so.1"
MULTIPROCESSOR_COUNT = 16


class Refused(Exception):
    """The driver answered with an error."""


def main() -> None:
    """Look, and print."""
    try:
        print(json.dumps(look()))
    except (OSError, AttributeError, Refused) as error:
        print(json.dumps({"error": str(error)}))


def look() -> dict[str, int]:
    """What the driver says of device 0, with a context on it: only that makes this process a client of MPS."""
    import ctypes

    cuda = ctypes.CDLL(LIBRARY)

    def ask(function: str, *arguments: object) -> None:
        code = getattr(cuda, function)(*arguments)
        if code:
            name = ctypes.c_char_p()
            cuda.cuGetErrorName(code, ctypes.byref(name))
            raise Refused(f"{function}: {(name.value or b'').decode() or f'error {code}'}")

    device, context, count = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ask("cuInit", 0)
    ask("cuDeviceGet", ctypes.byref(device), 0)
    ask("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    ask("cuCtxSetCurrent", context)
    ask("cuDeviceGetAttribute", ctypes.byref(count), MULTIPROCESSOR_COUNT, device)
    ask("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    ask("cuDevicePrimaryCtxRelease_v2", device)
    return {"multiprocessors": count.value, "memory_total": total.value, "memory_free": free.value}


if __name__ == "__main__":
    main()
