"""CUDA's driver API, as far as the engines need it: one stream, memory that lasts, copies, graphs.

Through ctypes, because the driver is there wherever there is a GPU, and a runtime library of the right version
may not be.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

LIBRARY = "libcuda.so.1"
NON_BLOCKING_STREAM = 1
PORTABLE_MEMORY = 1
THREAD_LOCAL_CAPTURE = 1


class CudaError(RuntimeError):
    """A call of the driver failed."""


class Device:
    """One GPU, its primary context (the one that the runtimes use), and one stream of our own.

    Attributes:
        stream: the stream's handle.
    """

    def __init__(self, ordinal: int) -> None:
        """Take the GPU of this index among those that the process sees.

        Raises:
            CudaError: there is no driver or no such GPU.
        """
        try:
            self._driver = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise CudaError(f"the NVIDIA driver is not installed here ({error})") from error
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(ordinal))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(NON_BLOCKING_STREAM))
        self.stream = int(stream.value or 0)
        self._stream = stream

    def pinned(self, size: int) -> Any:
        """Page-locked host memory as an array of bytes; it lasts as long as the process."""
        pointer = ctypes.c_void_p()
        self._call(
            "cuMemHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)), ctypes.c_uint(PORTABLE_MEMORY)
        )
        block = (ctypes.c_uint8 * max(size, 1)).from_address(int(pointer.value or 0))
        return np.ctypeslib.as_array(block)[:size]

    def memory(self, size: int) -> int:
        """The address of device memory; it lasts as long as the process."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        return int(pointer.value)

    def upload(self, pointer: int, array: Any) -> None:
        """Copy a contiguous array to the device, in the stream's order."""
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(pointer), _address(array), _size(array), self._stream)

    def download(self, array: Any, pointer: int) -> None:
        """Copy from the device into a contiguous array, in the stream's order."""
        self._call("cuMemcpyDtoHAsync_v2", _address(array), ctypes.c_uint64(pointer), _size(array), self._stream)

    def synchronize(self) -> None:
        """Wait for all that the stream was given."""
        self._call("cuStreamSynchronize", self._stream)

    def lost(self) -> str:
        """Why the context is beyond use, as after a kernel that went astray; empty while it is sound."""
        try:
            self._call("cuCtxSynchronize")
        except CudaError as error:
            return str(error)
        return ""

    def begin_capture(self) -> None:
        """Record what the stream is given from here on, instead of doing it."""
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(THREAD_LOCAL_CAPTURE))

    def end_capture(self) -> ctypes.c_void_p:
        """The recorded work, ready to be launched again and again.

        Raises:
            CudaError: something in it cannot be captured.
        """
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        self._call("cuGraphDestroy", graph)
        return executable

    def launch(self, graph: ctypes.c_void_p) -> None:
        """Do recorded work once more."""
        self._call("cuGraphLaunch", graph, self._stream)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            words = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(words))
            raise CudaError(f"{name}: {(words.value or b'unknown error').decode()} ({code})")


def _address(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _size(array: Any) -> ctypes.c_size_t:
    return ctypes.c_size_t(array.nbytes)
