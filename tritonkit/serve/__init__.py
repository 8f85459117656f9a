"""Serving a model repository: from what is asked for to processes that run, and back to nothing.

::

    request = Request(repository=Path("model_repository"), project=Path.cwd())
    with up(plan(request, survey(request))) as deployment:
        print(deployment.http)

``plan`` is pure; ``survey`` looks at the machine; ``up`` starts, watches and stops.
"""

from tritonkit.serve.deployment import down, up
from tritonkit.serve.plans import Host, Request, plan
from tritonkit.serve.processes import Plan, Policy
from tritonkit.serve.state import Deployment, ServerState, running
from tritonkit.serve.survey import survey

__all__ = [
    "Deployment",
    "Host",
    "Plan",
    "Policy",
    "Request",
    "ServerState",
    "down",
    "plan",
    "running",
    "survey",
    "up",
]
