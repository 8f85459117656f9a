"""The frame of a study's file: its keys, and what each may hold."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from tritonkit.spec.frozen import Frozen


class LoadKeys(Frozen):
    """How much is asked, and how. Numbers are lists, or texts such as ``1:16:2`` (from, to, step)."""

    concurrency: Any = Field(default=None, description="Requests in flight.")
    request_rate: Any = Field(default=None, description="Requests a second, sent whatever the server does.")
    distribution: Any = Field(default="constant", description="How request rates are spaced: constant, poisson.")
    arrivals: Any = Field(default=None, description="Names of the study's arrivals.")
    batch_size: Any = Field(default=1, description="Items in one request.")
    protocol: Any = Field(default="http", description="http, grpc, or both.")
    shared_memory: Any = Field(default="none", description="none, system, or both.")
    streaming: StrictBool = Field(default=False, description="All requests go over one gRPC stream.")
    sequence_length: StrictInt = Field(default=0, ge=0, description="Requests of one sequence.")
    version: StrictStr = Field(default="", description="The models' version.")


class Measuring(Frozen):
    """How long perf_analyzer looks, and when it believes what it sees."""

    interval_ms: StrictInt | None = Field(default=None, ge=100, description="One window; fits the latency if left out.")
    stability_percentage: StrictInt | StrictFloat = Field(
        default=10.0, gt=0, description="How far three windows may differ."
    )
    max_trials: StrictInt = Field(default=10, ge=3, description="Windows to try before a level is called unstable.")


class Together(Frozen):
    """Models that are loaded at the same time."""

    name: StrictStr = Field(min_length=1, description="The name of the group.")
    models: Any = Field(description="Models, each with its load; or their names, with a workload.")
    workload: Any = Field(default=None, description="Arrivals over all of them: a preset, its values, or a trace.")


class Variant(Frozen):
    """A deployment with a name."""

    name: StrictStr = Field(min_length=1, description="Its name.")
    set: dict[StrictStr, Any] = Field(default_factory=dict, description="Dotted paths with their values.")


class Experiment(Frozen):
    """A part of a study; what it leaves out is the study's."""

    models: tuple[StrictStr, ...] | None = Field(default=None, min_length=1, description="The models to measure.")
    load: Any = Field(default=None, description="The load axes.")
    deployment: dict[StrictStr, Any] | None = Field(default=None, description="Dotted paths with lists of values.")
    variants: tuple[Any, ...] | None = Field(default=None, min_length=1, description="Named deployments.")
    together: tuple[Any, ...] | None = Field(default=None, min_length=1, description="Models loaded at the same time.")
    endpoints: tuple[StrictStr, ...] | None = Field(default=None, description="Other HTTP services to measure.")


class Endpoint(Frozen):
    """A service that is no Triton: a program to start, and the request to send."""

    command: tuple[StrictStr, ...] = Field(
        min_length=1, description="The program; {port} is a free port, {python} the running Python."
    )
    path: StrictStr = Field(default="/", description="Where requests are posted.")
    body: StrictStr = Field(description="The file with the body of a request, relative to the study.")
    content_type: StrictStr = Field(default="application/json", description="What the body is.")
    ready: StrictStr = Field(default="", description="A path that answers 200 when it is ready; else its port opens.")
    environment: dict[StrictStr, StrictStr] = Field(default_factory=dict, description="Variables of the program.")


class StudyKeys(Experiment):
    """A whole study."""

    version: Literal[1] = Field(description="Version of this format.")
    name: StrictStr | None = Field(default=None, min_length=1, description="Its name; the file's if left out.")
    spec: Any = Field(default=None, description="The spec to deploy, or a list of it and its overlays.")
    repository: StrictStr | None = Field(default=None, description="A model repository to serve as it is.")
    url: StrictStr | None = Field(default=None, description="A server that runs already, [https://]HOST:PORT.")
    grpc_url: StrictStr | None = Field(default=None, description="Its gRPC address.")
    token_file: StrictStr | None = Field(default=None, description="The file whose first token it is shown.")
    ca_certificate: StrictStr | None = Field(default=None, description="The certificates to trust, of https://.")
    experiments: dict[StrictStr, Any] | None = Field(
        default=None, min_length=1, description="Parts with their own axes."
    )
    arrivals: dict[StrictStr, Any] = Field(default_factory=dict, description="Arrival times by name.")
    services: dict[StrictStr, Any] = Field(default_factory=dict, description="Services that are no Triton, by name.")
    input: dict[StrictStr, Any] = Field(default_factory=dict, description="Values of inputs, as --input takes them.")
    shape: dict[StrictStr, tuple[StrictInt, ...]] = Field(default_factory=dict, description="Shapes of open inputs.")
    warmup: StrictInt | StrictFloat = Field(default=2.0, ge=0, description="Seconds under load before each point.")
    repeats: StrictInt = Field(default=3, ge=1, le=100, description="How often each point is measured.")
    seed: StrictInt = Field(default=0, ge=0, description="Of the order, of the data and of arrivals.")
    measurement: Any = Field(default=None, description="How long perf_analyzer looks.")
