"""Containers on one machine: an OCI runtime per container under conmon, in our own cgroups and namespaces."""

from swarmpy.node.runtime.errors import (
    ContainerError,
    MissingTool,
    NoSpace,
    RuntimeFailure,
    StartRejected,
    UnknownContainer,
)
from swarmpy.node.runtime.request import ContainerRequest, ExecResult, Exit, Found, LogLine, Stats
from swarmpy.node.runtime.runtime import Runtime

__all__ = [
    "ContainerError", "ContainerRequest", "ExecResult", "Exit", "Found", "LogLine", "MissingTool", "NoSpace",
    "Runtime", "RuntimeFailure", "StartRejected", "Stats", "UnknownContainer",
]  # fmt: skip
