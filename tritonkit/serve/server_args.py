"""The command line of tritonserver: the flags that tritonkit sets, and those that a user may add."""

from __future__ import annotations

from collections.abc import Iterable

from tritonkit.errors import UsageError

# Flags that tritonkit sets itself, and the option of `tritonkit up` that changes them, where there is one.
_OWN_FLAGS = {
    "--id": "",
    "--model-repository": "",
    "--model-store": "",
    "--backend-directory": "",
    "--cache-directory": "",
    "--exit-on-error": "",
    "--exit-timeout-secs": "--stop-timeout",
    "--log-verbose": "--log-verbose",
    "--log-file": "",
    "--http-address": "--host",
    "--grpc-address": "--host",
    "--metrics-address": "--host",
    "--http-port": "--http-port",
    "--grpc-port": "--grpc-port",
    "--metrics-port": "--metrics-port",
    "--allow-http": "",
    # Readiness is asked for over HTTP, with no key.
    "--http-restricted-api": "",
}
_BACKEND_CONFIG = "--backend-config"
_SHARED_MEMORY = "shm-region-prefix-name"
_CONTROL_MODE = "--model-control-mode"
_LOAD_MODEL = "--load-model"


def check_server_args(arguments: Iterable[str]) -> None:
    """Refuse what is no flag of tritonserver, and the flags that tritonkit sets itself.

    Raises:
        UsageError: there is one.
    """
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if not flag.startswith("--") or any(letter.isspace() for letter in flag):
            raise UsageError(
                f"--server-arg {argument!r}: expected one flag of tritonserver with its value, "
                "like --server-arg=--rate-limit=off"
            )
        # tritonserver takes a flag also by its first letters.
        meant = next((own for own in _OWN_FLAGS if own.startswith(flag)), None)
        if meant is not None or value.partition(",")[2].startswith(_SHARED_MEMORY):
            own = _OWN_FLAGS.get(meant or "")
            raise UsageError(
                f"--server-arg {argument}: tritonkit sets this flag itself",
                hint=f"Use tritonkit's own option {own}." if own else None,
            )


def stub_settings(prefix: str, arguments: Iterable[str], *, bundled: bool) -> tuple[str, ...]:
    """The flags that say how the Python backend and its stubs behave.

    The bundled server's onnxruntime backend starts stubs as well, and is told everything in its own name alone: so
    what is said to the Python backend, by tritonkit or by the user, is said to it too.

    Args:
        prefix: what the names of the stubs' shared memory begin with.
        arguments: the user's own flags.
        bundled: whether it is the bundled server.
    """
    own = f"{_BACKEND_CONFIG}=python,{_SHARED_MEMORY}={prefix}"
    if not bundled:
        return (own,)
    pairs = [argument.partition("=") for argument in (own, *arguments)]
    settings = [value for flag, _, value in pairs if len(flag) > len("--backend-") and _BACKEND_CONFIG.startswith(flag)]
    copied = [value.partition(",")[2] for value in settings if value.startswith("python,")]
    return (own, *(f"{_BACKEND_CONFIG}=onnxruntime,{setting}" for setting in copied))


def is_explicit(arguments: Iterable[str]) -> bool:
    """Whether models are loaded only when somebody asks for them."""
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if _CONTROL_MODE.startswith(flag) and value.lower() == "explicit":
            return True
    return False


def controllable(arguments: Iterable[str]) -> tuple[str, ...]:
    """What lets clients load and unload models, all loaded at the start; nothing where a user's own flags say it."""
    defaults = (f"{_CONTROL_MODE}=explicit", f"{_LOAD_MODEL}=*")
    kept = unless_given(defaults, arguments)
    return defaults if kept == defaults else ()


def unless_given(defaults: Iterable[str], arguments: Iterable[str]) -> tuple[str, ...]:
    """Those of ``defaults`` whose flag a user's own arguments do not set."""
    given = [argument.partition("=")[0] for argument in arguments]
    return tuple(
        default
        for default in defaults
        if not any(len(flag) > 2 and default.partition("=")[0].startswith(flag) for flag in given)
    )
