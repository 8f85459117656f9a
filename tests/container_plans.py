"""Plans with GPUs and a gateway, as values: no GPU is needed to render them."""

from __future__ import annotations

from pathlib import Path

from tritonkit.serve.gateway import Backend, GatewayOptions, gateway_process
from tritonkit.serve.processes import DaemonCheck, Folder, Plan, Policy, ProcessSpec, ServerCheck, Share, environment
from tritonkit.serve.runtime import runtime_directory
from tritonkit.serve.warden import mark

UUID = "GPU-00000000-1111-2222-3333-44444444444{}"
DEPLOYMENT = "0a1b2c3d"


def plan(project: Path, *, gpus: int = 1, replicas: int = 2, mps: bool = True) -> Plan:
    """Two servers at 30 and 60 percent on each GPU, or replicas on the CPU, and a gateway where there are several."""
    daemons = [_daemon(project, gpu) for gpu in range(gpus)] if mps else []
    names = [(f"server-gpu{gpu}-{part}", gpu) for gpu in range(gpus) for part in (30, 60)] if gpus else []
    names = names or [(f"server-r{number}" if replicas > 1 else "server", -1) for number in range(replicas)]
    servers = [
        _server(project, name, 8100 + 10 * number if len(names) > 1 else 8000, gpu, mps=mps)
        for number, (name, gpu) in enumerate(names)
    ]
    gateway = [_gateway(project, servers)] if len(servers) > 1 else []
    return Plan(
        deployment=DEPLOYMENT,
        project=project,
        repository=project / "model_repository",
        spec=project / "spec.yaml",
        addresses={"http": "127.0.0.1:8000", "grpc": "127.0.0.1:8001", "metrics": "127.0.0.1:8002"},
        processes=(*daemons, *servers, *gateway),
        policy=Policy(),
    )


def _daemon(project: Path, gpu: int) -> ProcessSpec:
    name = f"mps-{gpu}"
    around = runtime_directory(DEPLOYMENT) / name
    keeping = project / ".tritonkit"
    return ProcessSpec(
        name=name,
        argv=("/usr/bin/nvidia-cuda-mps-control", "-f"),
        env=environment(
            {},
            mark(DEPLOYMENT, name),
            CUDA_VISIBLE_DEVICES=UUID.format(gpu),
            CUDA_MPS_PIPE_DIRECTORY=str(around / "pipe"),
            CUDA_MPS_LOG_DIRECTORY=str(around / "log"),
        ),
        cwd=keeping / "run" / name,
        log=keeping / "logs" / f"{name}.log",
        mark=mark(DEPLOYMENT, name),
        check=DaemonCheck(Path("/usr/bin/nvidia-cuda-mps-control"), around / "pipe"),
    )


def _server(project: Path, name: str, port: int, gpu: int, *, mps: bool) -> ProcessSpec:
    keeping, marked = project / ".tritonkit", mark(DEPLOYMENT, name)
    addresses = {service: f"127.0.0.1:{port + n}" for n, service in enumerate(("http", "grpc", "metrics"))}
    repository = project / "model_repository"
    pipe = runtime_directory(DEPLOYMENT) / f"mps-{gpu}" / "pipe" if mps and gpu >= 0 else None
    share = None
    variables: dict[str, str] = {}
    folders: tuple[Folder, ...] = ()
    served = repository
    if gpu >= 0:
        percentage = float(name.rpartition("-")[2])
        share = Share(gpu, UUID.format(gpu), pipe, percentage if mps else None, None, 132)
        variables["CUDA_VISIBLE_DEVICES"] = UUID.format(gpu)
        served = keeping / "views" / name
        config = f'name: "m"\nparameters {{ key: "at" value {{ string_value: "{repository}/m" }} }}\n'
        folders = (Folder(served, files={"m/config.pbtxt": config}, links={"m/1": repository / "m" / "1"}),)
    if pipe is not None:
        variables |= {"CUDA_MPS_PIPE_DIRECTORY": str(pipe), "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": f"{percentage:g}"}
    return ProcessSpec(
        name=name,
        argv=(
            "/opt/tritonserver/bin/tritonserver",
            f"--model-repository={served}",
            "--backend-directory=/opt/tritonserver/backends",
            *(f"--{service}-port={address.rpartition(':')[2]}" for service, address in addresses.items()),
        ),
        env=environment({}, marked, **variables),
        cwd=keeping / "run" / name,
        log=keeping / "logs" / f"{name}.log",
        mark=marked,
        check=ServerCheck(addresses["http"], f"tritonkit-{marked}", ("m",), share),
        addresses=addresses,
        needs=(f"mps-{gpu}",) if pipe is not None else (),
        folders=folders,
    )


def _gateway(project: Path, servers: list[ProcessSpec]) -> ProcessSpec:
    return gateway_process(
        [Backend(server.name, **server.addresses, models=("m",)) for server in servers],
        GatewayOptions(),
        program=Path("/usr/sbin/haproxy"),
        project=project,
        runtime=runtime_directory(DEPLOYMENT),
        deployment=DEPLOYMENT,
        inherited_env={},
    )
