"""Whether a GPU has the memory for a second process of a server that runs, as far as the driver tells."""

from __future__ import annotations

from tritonkit.errors import TritonkitError
from tritonkit.serve import gpus, procfs, warden
from tritonkit.serve.processes import ProcessSpec, ServerCheck


def lack(running: ProcessSpec) -> str:
    """Why there is none; empty where there is, or where it cannot be told.

    What is free on the GPU is held against what all processes of the server hold there now. It cannot be told without
    a driver, in a container with process numbers of its own, and where the driver does not say what each of them
    holds.
    """
    share = running.check.share if isinstance(running.check, ServerCheck) else None
    if share is None or not procfs.counts_as_the_kernel():
        return ""
    try:
        here = next((gpu for gpu in gpus.inventory() if gpu.uuid == share.uuid), None)
    except TritonkitError:
        return ""
    if here is None:
        return ""
    own = set(warden.members(running.mark))
    memories = [user.memory for user in here.users if user.pid in own]
    held = sum(memory for memory in memories if memory is not None)
    free = here.memory_total - here.memory_used
    if None in memories or free >= held:
        return ""
    left, taken = f"{free / 2**30:.1f} GiB", f"{held / 2**30:.1f} GiB"
    return f"GPU {share.gpu} has {left} of memory left, and {running.shown} holds {taken} of it"
