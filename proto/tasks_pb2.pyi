from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TerminalSize(_message.Message):
    __slots__ = ("rows", "columns")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ...) -> None: ...

class ExecStart(_message.Message):
    __slots__ = ("target", "argv", "tty", "stdin", "env", "user", "workdir", "privileged", "detach", "size", "container")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ARGV_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    WORKDIR_FIELD_NUMBER: _ClassVar[int]
    PRIVILEGED_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    target: str
    argv: _containers.RepeatedScalarFieldContainer[str]
    tty: bool
    stdin: bool
    env: _containers.RepeatedScalarFieldContainer[str]
    user: str
    workdir: str
    privileged: bool
    detach: bool
    size: TerminalSize
    container: str
    def __init__(self, target: _Optional[str] = ..., argv: _Optional[_Iterable[str]] = ..., tty: _Optional[bool] = ..., stdin: _Optional[bool] = ..., env: _Optional[_Iterable[str]] = ..., user: _Optional[str] = ..., workdir: _Optional[str] = ..., privileged: _Optional[bool] = ..., detach: _Optional[bool] = ..., size: _Optional[_Union[TerminalSize, _Mapping]] = ..., container: _Optional[str] = ...) -> None: ...

class AttachStart(_message.Message):
    __slots__ = ("target", "stdin", "size", "container")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    target: str
    stdin: bool
    size: TerminalSize
    container: str
    def __init__(self, target: _Optional[str] = ..., stdin: _Optional[bool] = ..., size: _Optional[_Union[TerminalSize, _Mapping]] = ..., container: _Optional[str] = ...) -> None: ...

class SessionInput(_message.Message):
    __slots__ = ("exec", "attach", "stdin", "stdin_end", "size")
    EXEC_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    STDIN_END_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    exec: ExecStart
    attach: AttachStart
    stdin: bytes
    stdin_end: bool
    size: TerminalSize
    def __init__(self, exec: _Optional[_Union[ExecStart, _Mapping]] = ..., attach: _Optional[_Union[AttachStart, _Mapping]] = ..., stdin: _Optional[bytes] = ..., stdin_end: _Optional[bool] = ..., size: _Optional[_Union[TerminalSize, _Mapping]] = ...) -> None: ...

class TaskPlace(_message.Message):
    __slots__ = ("task_id", "task_name", "node_name", "tty")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    task_name: str
    node_name: str
    tty: bool
    def __init__(self, task_id: _Optional[str] = ..., task_name: _Optional[str] = ..., node_name: _Optional[str] = ..., tty: _Optional[bool] = ...) -> None: ...

class SessionOutput(_message.Message):
    __slots__ = ("place", "stdout", "stderr", "exit")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    place: TaskPlace
    stdout: bytes
    stderr: bytes
    exit: SessionExit
    def __init__(self, place: _Optional[_Union[TaskPlace, _Mapping]] = ..., stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., exit: _Optional[_Union[SessionExit, _Mapping]] = ...) -> None: ...

class SessionExit(_message.Message):
    __slots__ = ("code", "unknown")
    CODE_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    code: int
    unknown: bool
    def __init__(self, code: _Optional[int] = ..., unknown: _Optional[bool] = ...) -> None: ...

class CopyFromRequest(_message.Message):
    __slots__ = ("target", "path", "follow_link", "container")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_LINK_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    target: str
    path: str
    follow_link: bool
    container: str
    def __init__(self, target: _Optional[str] = ..., path: _Optional[str] = ..., follow_link: _Optional[bool] = ..., container: _Optional[str] = ...) -> None: ...

class CopyFromResponse(_message.Message):
    __slots__ = ("place", "data")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    place: TaskPlace
    data: bytes
    def __init__(self, place: _Optional[_Union[TaskPlace, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class CopyToStart(_message.Message):
    __slots__ = ("target", "path", "keep_owner", "container")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    KEEP_OWNER_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    target: str
    path: str
    keep_owner: bool
    container: str
    def __init__(self, target: _Optional[str] = ..., path: _Optional[str] = ..., keep_owner: _Optional[bool] = ..., container: _Optional[str] = ...) -> None: ...

class CopyToRequest(_message.Message):
    __slots__ = ("start", "data", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: CopyToStart
    data: bytes
    end: bool
    def __init__(self, start: _Optional[_Union[CopyToStart, _Mapping]] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ...) -> None: ...

class CopyToResponse(_message.Message):
    __slots__ = ("place", "files", "bytes")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    place: TaskPlace
    files: int
    bytes: int
    def __init__(self, place: _Optional[_Union[TaskPlace, _Mapping]] = ..., files: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class ForwardStart(_message.Message):
    __slots__ = ("target", "port")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    target: str
    port: int
    def __init__(self, target: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class ForwardInput(_message.Message):
    __slots__ = ("start", "data", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: ForwardStart
    data: bytes
    end: bool
    def __init__(self, start: _Optional[_Union[ForwardStart, _Mapping]] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ...) -> None: ...

class ForwardOutput(_message.Message):
    __slots__ = ("place", "data", "end")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    place: TaskPlace
    data: bytes
    end: bool
    def __init__(self, place: _Optional[_Union[TaskPlace, _Mapping]] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ("targets", "interval_ms", "nodes", "containers")
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedScalarFieldContainer[str]
    interval_ms: int
    nodes: bool
    containers: bool
    def __init__(self, targets: _Optional[_Iterable[str]] = ..., interval_ms: _Optional[int] = ..., nodes: _Optional[bool] = ..., containers: _Optional[bool] = ...) -> None: ...

class TaskStats(_message.Message):
    __slots__ = ("task_id", "task_name", "service_name", "node_name", "time_ns", "cpu_ns", "cpu_limit_nano", "memory_bytes", "memory_limit_bytes", "pids", "pids_limit", "received_bytes", "sent_bytes", "read_bytes", "written_bytes", "pressure", "cpu_pressure_ns", "memory_pressure_ns", "io_pressure_ns", "connections", "accepted", "probe_ms", "container")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_NAME_FIELD_NUMBER: _ClassVar[int]
    SERVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    CPU_NS_FIELD_NUMBER: _ClassVar[int]
    CPU_LIMIT_NANO_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PIDS_FIELD_NUMBER: _ClassVar[int]
    PIDS_LIMIT_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    PRESSURE_FIELD_NUMBER: _ClassVar[int]
    CPU_PRESSURE_NS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PRESSURE_NS_FIELD_NUMBER: _ClassVar[int]
    IO_PRESSURE_NS_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PROBE_MS_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    task_name: str
    service_name: str
    node_name: str
    time_ns: int
    cpu_ns: int
    cpu_limit_nano: int
    memory_bytes: int
    memory_limit_bytes: int
    pids: int
    pids_limit: int
    received_bytes: int
    sent_bytes: int
    read_bytes: int
    written_bytes: int
    pressure: bool
    cpu_pressure_ns: int
    memory_pressure_ns: int
    io_pressure_ns: int
    connections: int
    accepted: int
    probe_ms: int
    container: str
    def __init__(self, task_id: _Optional[str] = ..., task_name: _Optional[str] = ..., service_name: _Optional[str] = ..., node_name: _Optional[str] = ..., time_ns: _Optional[int] = ..., cpu_ns: _Optional[int] = ..., cpu_limit_nano: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., memory_limit_bytes: _Optional[int] = ..., pids: _Optional[int] = ..., pids_limit: _Optional[int] = ..., received_bytes: _Optional[int] = ..., sent_bytes: _Optional[int] = ..., read_bytes: _Optional[int] = ..., written_bytes: _Optional[int] = ..., pressure: _Optional[bool] = ..., cpu_pressure_ns: _Optional[int] = ..., memory_pressure_ns: _Optional[int] = ..., io_pressure_ns: _Optional[int] = ..., connections: _Optional[int] = ..., accepted: _Optional[int] = ..., probe_ms: _Optional[int] = ..., container: _Optional[str] = ...) -> None: ...

class NodeStats(_message.Message):
    __slots__ = ("node_name", "time_ns", "node_id", "busy_ns", "cpus", "memory_bytes", "memory_total_bytes", "load", "tasks")
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    BUSY_NS_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    node_name: str
    time_ns: int
    node_id: str
    busy_ns: int
    cpus: int
    memory_bytes: int
    memory_total_bytes: int
    load: float
    tasks: int
    def __init__(self, node_name: _Optional[str] = ..., time_ns: _Optional[int] = ..., node_id: _Optional[str] = ..., busy_ns: _Optional[int] = ..., cpus: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., load: _Optional[float] = ..., tasks: _Optional[int] = ...) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("tasks", "node", "warning", "node_id")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[TaskStats]
    node: NodeStats
    warning: str
    node_id: str
    def __init__(self, tasks: _Optional[_Iterable[_Union[TaskStats, _Mapping]]] = ..., node: _Optional[_Union[NodeStats, _Mapping]] = ..., warning: _Optional[str] = ..., node_id: _Optional[str] = ...) -> None: ...

class NodeStatsRequest(_message.Message):
    __slots__ = ("task_ids", "interval_ms", "node", "containers")
    TASK_IDS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    task_ids: _containers.RepeatedScalarFieldContainer[str]
    interval_ms: int
    node: bool
    containers: bool
    def __init__(self, task_ids: _Optional[_Iterable[str]] = ..., interval_ms: _Optional[int] = ..., node: _Optional[bool] = ..., containers: _Optional[bool] = ...) -> None: ...

class ProcessesRequest(_message.Message):
    __slots__ = ("target", "container")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    target: str
    container: str
    def __init__(self, target: _Optional[str] = ..., container: _Optional[str] = ...) -> None: ...

class Process(_message.Message):
    __slots__ = ("pid", "parent_pid", "user", "command", "state", "cpu_ns", "memory_bytes", "started_ms", "inner_pid")
    PID_FIELD_NUMBER: _ClassVar[int]
    PARENT_PID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CPU_NS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    INNER_PID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    parent_pid: int
    user: str
    command: str
    state: str
    cpu_ns: int
    memory_bytes: int
    started_ms: int
    inner_pid: int
    def __init__(self, pid: _Optional[int] = ..., parent_pid: _Optional[int] = ..., user: _Optional[str] = ..., command: _Optional[str] = ..., state: _Optional[str] = ..., cpu_ns: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., started_ms: _Optional[int] = ..., inner_pid: _Optional[int] = ...) -> None: ...

class ProcessesResponse(_message.Message):
    __slots__ = ("place", "processes")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    place: TaskPlace
    processes: _containers.RepeatedCompositeFieldContainer[Process]
    def __init__(self, place: _Optional[_Union[TaskPlace, _Mapping]] = ..., processes: _Optional[_Iterable[_Union[Process, _Mapping]]] = ...) -> None: ...
