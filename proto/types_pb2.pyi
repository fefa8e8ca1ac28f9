from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_WORKER: _ClassVar[Role]
    ROLE_MANAGER: _ClassVar[Role]

class Availability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AVAILABILITY_ACTIVE: _ClassVar[Availability]
    AVAILABILITY_PAUSE: _ClassVar[Availability]
    AVAILABILITY_DRAIN: _ClassVar[Availability]

class NodeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_UNKNOWN: _ClassVar[NodeState]
    NODE_DOWN: _ClassVar[NodeState]
    NODE_READY: _ClassVar[NodeState]
    NODE_DISCONNECTED: _ClassVar[NodeState]

class TaskState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_NEW: _ClassVar[TaskState]
    TASK_PENDING: _ClassVar[TaskState]
    TASK_ASSIGNED: _ClassVar[TaskState]
    TASK_ACCEPTED: _ClassVar[TaskState]
    TASK_PREPARING: _ClassVar[TaskState]
    TASK_READY: _ClassVar[TaskState]
    TASK_STARTING: _ClassVar[TaskState]
    TASK_RUNNING: _ClassVar[TaskState]
    TASK_COMPLETE: _ClassVar[TaskState]
    TASK_SHUTDOWN: _ClassVar[TaskState]
    TASK_FAILED: _ClassVar[TaskState]
    TASK_REJECTED: _ClassVar[TaskState]
    TASK_REMOVE: _ClassVar[TaskState]
    TASK_ORPHANED: _ClassVar[TaskState]

class MountType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MOUNT_BIND: _ClassVar[MountType]
    MOUNT_VOLUME: _ClassVar[MountType]
    MOUNT_TMPFS: _ClassVar[MountType]
    MOUNT_POD: _ClassVar[MountType]

class RestartCondition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESTART_ANY: _ClassVar[RestartCondition]
    RESTART_ON_FAILURE: _ClassVar[RestartCondition]
    RESTART_NONE: _ClassVar[RestartCondition]

class UpdateOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_AUTO: _ClassVar[UpdateOrder]
    ORDER_STOP_FIRST: _ClassVar[UpdateOrder]
    ORDER_START_FIRST: _ClassVar[UpdateOrder]

class FailureAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_ROLLBACK: _ClassVar[FailureAction]
    FAILURE_PAUSE: _ClassVar[FailureAction]
    FAILURE_CONTINUE: _ClassVar[FailureAction]

class UpdateStrategy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STRATEGY_ROLLING: _ClassVar[UpdateStrategy]
    STRATEGY_BLUE_GREEN: _ClassVar[UpdateStrategy]

class TaintEffect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TAINT_NO_SCHEDULE: _ClassVar[TaintEffect]
    TAINT_PREFER_NO_SCHEDULE: _ClassVar[TaintEffect]
    TAINT_NO_EXECUTE: _ClassVar[TaintEffect]

class Protocol(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROTOCOL_TCP: _ClassVar[Protocol]
    PROTOCOL_UDP: _ClassVar[Protocol]
    PROTOCOL_SCTP: _ClassVar[Protocol]

class PublishMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PUBLISH_INGRESS: _ClassVar[PublishMode]
    PUBLISH_HOST: _ClassVar[PublishMode]
ROLE_WORKER: Role
ROLE_MANAGER: Role
AVAILABILITY_ACTIVE: Availability
AVAILABILITY_PAUSE: Availability
AVAILABILITY_DRAIN: Availability
NODE_UNKNOWN: NodeState
NODE_DOWN: NodeState
NODE_READY: NodeState
NODE_DISCONNECTED: NodeState
TASK_NEW: TaskState
TASK_PENDING: TaskState
TASK_ASSIGNED: TaskState
TASK_ACCEPTED: TaskState
TASK_PREPARING: TaskState
TASK_READY: TaskState
TASK_STARTING: TaskState
TASK_RUNNING: TaskState
TASK_COMPLETE: TaskState
TASK_SHUTDOWN: TaskState
TASK_FAILED: TaskState
TASK_REJECTED: TaskState
TASK_REMOVE: TaskState
TASK_ORPHANED: TaskState
MOUNT_BIND: MountType
MOUNT_VOLUME: MountType
MOUNT_TMPFS: MountType
MOUNT_POD: MountType
RESTART_ANY: RestartCondition
RESTART_ON_FAILURE: RestartCondition
RESTART_NONE: RestartCondition
ORDER_AUTO: UpdateOrder
ORDER_STOP_FIRST: UpdateOrder
ORDER_START_FIRST: UpdateOrder
FAILURE_ROLLBACK: FailureAction
FAILURE_PAUSE: FailureAction
FAILURE_CONTINUE: FailureAction
STRATEGY_ROLLING: UpdateStrategy
STRATEGY_BLUE_GREEN: UpdateStrategy
TAINT_NO_SCHEDULE: TaintEffect
TAINT_PREFER_NO_SCHEDULE: TaintEffect
TAINT_NO_EXECUTE: TaintEffect
PROTOCOL_TCP: Protocol
PROTOCOL_UDP: Protocol
PROTOCOL_SCTP: Protocol
PUBLISH_INGRESS: PublishMode
PUBLISH_HOST: PublishMode

class Meta(_message.Message):
    __slots__ = ("id", "version", "name", "namespace", "labels", "created_ms", "updated_ms")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    version: int
    name: str
    namespace: str
    labels: _containers.ScalarMap[str, str]
    created_ms: int
    updated_ms: int
    def __init__(self, id: _Optional[str] = ..., version: _Optional[int] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., created_ms: _Optional[int] = ..., updated_ms: _Optional[int] = ...) -> None: ...

class RegistryAccess(_message.Message):
    __slots__ = ("registry", "username", "password", "insecure", "ca", "mirrors")
    REGISTRY_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    INSECURE_FIELD_NUMBER: _ClassVar[int]
    CA_FIELD_NUMBER: _ClassVar[int]
    MIRRORS_FIELD_NUMBER: _ClassVar[int]
    registry: str
    username: str
    password: str
    insecure: bool
    ca: str
    mirrors: _containers.RepeatedCompositeFieldContainer[RegistryAccess]
    def __init__(self, registry: _Optional[str] = ..., username: _Optional[str] = ..., password: _Optional[str] = ..., insecure: _Optional[bool] = ..., ca: _Optional[str] = ..., mirrors: _Optional[_Iterable[_Union[RegistryAccess, _Mapping]]] = ...) -> None: ...

class Platform(_message.Message):
    __slots__ = ("os", "architecture")
    OS_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    os: str
    architecture: str
    def __init__(self, os: _Optional[str] = ..., architecture: _Optional[str] = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ("nano_cpus", "memory_bytes", "generic")
    class GenericEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NANO_CPUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    GENERIC_FIELD_NUMBER: _ClassVar[int]
    nano_cpus: int
    memory_bytes: int
    generic: _containers.ScalarMap[str, int]
    def __init__(self, nano_cpus: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., generic: _Optional[_Mapping[str, int]] = ...) -> None: ...

class DeviceLimits(_message.Message):
    __slots__ = ("device", "read_bps", "write_bps", "read_iops", "write_iops")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    READ_BPS_FIELD_NUMBER: _ClassVar[int]
    WRITE_BPS_FIELD_NUMBER: _ClassVar[int]
    READ_IOPS_FIELD_NUMBER: _ClassVar[int]
    WRITE_IOPS_FIELD_NUMBER: _ClassVar[int]
    device: str
    read_bps: int
    write_bps: int
    read_iops: int
    write_iops: int
    def __init__(self, device: _Optional[str] = ..., read_bps: _Optional[int] = ..., write_bps: _Optional[int] = ..., read_iops: _Optional[int] = ..., write_iops: _Optional[int] = ...) -> None: ...

class ResourceRequirements(_message.Message):
    __slots__ = ("limits", "reservations", "pids_limit", "swap_bytes", "swappiness", "cpuset_cpus", "cpuset_mems", "no_oom_kill", "io_weight", "io_devices")
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    PIDS_LIMIT_FIELD_NUMBER: _ClassVar[int]
    SWAP_BYTES_FIELD_NUMBER: _ClassVar[int]
    SWAPPINESS_FIELD_NUMBER: _ClassVar[int]
    CPUSET_CPUS_FIELD_NUMBER: _ClassVar[int]
    CPUSET_MEMS_FIELD_NUMBER: _ClassVar[int]
    NO_OOM_KILL_FIELD_NUMBER: _ClassVar[int]
    IO_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    IO_DEVICES_FIELD_NUMBER: _ClassVar[int]
    limits: Resources
    reservations: Resources
    pids_limit: int
    swap_bytes: int
    swappiness: int
    cpuset_cpus: str
    cpuset_mems: str
    no_oom_kill: bool
    io_weight: int
    io_devices: _containers.RepeatedCompositeFieldContainer[DeviceLimits]
    def __init__(self, limits: _Optional[_Union[Resources, _Mapping]] = ..., reservations: _Optional[_Union[Resources, _Mapping]] = ..., pids_limit: _Optional[int] = ..., swap_bytes: _Optional[int] = ..., swappiness: _Optional[int] = ..., cpuset_cpus: _Optional[str] = ..., cpuset_mems: _Optional[str] = ..., no_oom_kill: _Optional[bool] = ..., io_weight: _Optional[int] = ..., io_devices: _Optional[_Iterable[_Union[DeviceLimits, _Mapping]]] = ...) -> None: ...

class Mount(_message.Message):
    __slots__ = ("type", "source", "target", "read_only", "propagation", "create_source", "subpath", "tmpfs_size_bytes", "tmpfs_mode", "volume_driver", "volume_options", "volume_labels", "volume_nocopy", "recursive")
    class VolumeOptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class VolumeLabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    PROPAGATION_FIELD_NUMBER: _ClassVar[int]
    CREATE_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SUBPATH_FIELD_NUMBER: _ClassVar[int]
    TMPFS_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TMPFS_MODE_FIELD_NUMBER: _ClassVar[int]
    VOLUME_DRIVER_FIELD_NUMBER: _ClassVar[int]
    VOLUME_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    VOLUME_LABELS_FIELD_NUMBER: _ClassVar[int]
    VOLUME_NOCOPY_FIELD_NUMBER: _ClassVar[int]
    RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    type: MountType
    source: str
    target: str
    read_only: bool
    propagation: str
    create_source: bool
    subpath: str
    tmpfs_size_bytes: int
    tmpfs_mode: int
    volume_driver: str
    volume_options: _containers.ScalarMap[str, str]
    volume_labels: _containers.ScalarMap[str, str]
    volume_nocopy: bool
    recursive: str
    def __init__(self, type: _Optional[_Union[MountType, str]] = ..., source: _Optional[str] = ..., target: _Optional[str] = ..., read_only: _Optional[bool] = ..., propagation: _Optional[str] = ..., create_source: _Optional[bool] = ..., subpath: _Optional[str] = ..., tmpfs_size_bytes: _Optional[int] = ..., tmpfs_mode: _Optional[int] = ..., volume_driver: _Optional[str] = ..., volume_options: _Optional[_Mapping[str, str]] = ..., volume_labels: _Optional[_Mapping[str, str]] = ..., volume_nocopy: _Optional[bool] = ..., recursive: _Optional[str] = ...) -> None: ...

class HealthConfig(_message.Message):
    __slots__ = ("test", "interval_ms", "timeout_ms", "retries", "start_period_ms", "start_interval_ms", "http", "tcp", "grpc")
    TEST_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    START_PERIOD_MS_FIELD_NUMBER: _ClassVar[int]
    START_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    TCP_FIELD_NUMBER: _ClassVar[int]
    GRPC_FIELD_NUMBER: _ClassVar[int]
    test: _containers.RepeatedScalarFieldContainer[str]
    interval_ms: int
    timeout_ms: int
    retries: int
    start_period_ms: int
    start_interval_ms: int
    http: str
    tcp: str
    grpc: str
    def __init__(self, test: _Optional[_Iterable[str]] = ..., interval_ms: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., retries: _Optional[int] = ..., start_period_ms: _Optional[int] = ..., start_interval_ms: _Optional[int] = ..., http: _Optional[str] = ..., tcp: _Optional[str] = ..., grpc: _Optional[str] = ...) -> None: ...

class LogConfig(_message.Message):
    __slots__ = ("driver", "max_size_bytes", "max_files")
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    MAX_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_FILES_FIELD_NUMBER: _ClassVar[int]
    driver: str
    max_size_bytes: int
    max_files: int
    def __init__(self, driver: _Optional[str] = ..., max_size_bytes: _Optional[int] = ..., max_files: _Optional[int] = ...) -> None: ...

class Ulimit(_message.Message):
    __slots__ = ("name", "soft", "hard")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOFT_FIELD_NUMBER: _ClassVar[int]
    HARD_FIELD_NUMBER: _ClassVar[int]
    name: str
    soft: int
    hard: int
    def __init__(self, name: _Optional[str] = ..., soft: _Optional[int] = ..., hard: _Optional[int] = ...) -> None: ...

class Host(_message.Message):
    __slots__ = ("name", "address")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class FileReference(_message.Message):
    __slots__ = ("source", "id", "target", "uid", "gid", "mode")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    source: str
    id: str
    target: str
    uid: int
    gid: int
    mode: int
    def __init__(self, source: _Optional[str] = ..., id: _Optional[str] = ..., target: _Optional[str] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., mode: _Optional[int] = ...) -> None: ...

class ContainerSpec(_message.Message):
    __slots__ = ("image", "image_digest", "command", "args", "env", "dir", "user", "groups", "hostname", "labels", "init", "no_init", "tty", "open_stdin", "read_only", "stop_signal", "stop_grace_ms", "mounts", "health", "hosts", "dns_servers", "dns_search", "dns_options", "sysctls", "cap_add", "cap_drop", "ulimits", "oom_score_adj", "shm_size_bytes", "privileged", "seccomp", "allow_new_privileges", "pull_policy", "drain_delay_ms", "devices", "readiness", "startup", "seccomp_profile", "pid_mode", "ipc_mode", "userns", "cgroup_parent", "runtime", "annotations", "domainname", "log", "gpus", "secrets", "configs")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SysctlsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    DIR_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INIT_FIELD_NUMBER: _ClassVar[int]
    NO_INIT_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    OPEN_STDIN_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    STOP_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    STOP_GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    DNS_SERVERS_FIELD_NUMBER: _ClassVar[int]
    DNS_SEARCH_FIELD_NUMBER: _ClassVar[int]
    DNS_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SYSCTLS_FIELD_NUMBER: _ClassVar[int]
    CAP_ADD_FIELD_NUMBER: _ClassVar[int]
    CAP_DROP_FIELD_NUMBER: _ClassVar[int]
    ULIMITS_FIELD_NUMBER: _ClassVar[int]
    OOM_SCORE_ADJ_FIELD_NUMBER: _ClassVar[int]
    SHM_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PRIVILEGED_FIELD_NUMBER: _ClassVar[int]
    SECCOMP_FIELD_NUMBER: _ClassVar[int]
    ALLOW_NEW_PRIVILEGES_FIELD_NUMBER: _ClassVar[int]
    PULL_POLICY_FIELD_NUMBER: _ClassVar[int]
    DRAIN_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    READINESS_FIELD_NUMBER: _ClassVar[int]
    STARTUP_FIELD_NUMBER: _ClassVar[int]
    SECCOMP_PROFILE_FIELD_NUMBER: _ClassVar[int]
    PID_MODE_FIELD_NUMBER: _ClassVar[int]
    IPC_MODE_FIELD_NUMBER: _ClassVar[int]
    USERNS_FIELD_NUMBER: _ClassVar[int]
    CGROUP_PARENT_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    DOMAINNAME_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    CONFIGS_FIELD_NUMBER: _ClassVar[int]
    image: str
    image_digest: str
    command: _containers.RepeatedScalarFieldContainer[str]
    args: _containers.RepeatedScalarFieldContainer[str]
    env: _containers.RepeatedScalarFieldContainer[str]
    dir: str
    user: str
    groups: _containers.RepeatedScalarFieldContainer[str]
    hostname: str
    labels: _containers.ScalarMap[str, str]
    init: bool
    no_init: bool
    tty: bool
    open_stdin: bool
    read_only: bool
    stop_signal: str
    stop_grace_ms: int
    mounts: _containers.RepeatedCompositeFieldContainer[Mount]
    health: HealthConfig
    hosts: _containers.RepeatedCompositeFieldContainer[Host]
    dns_servers: _containers.RepeatedScalarFieldContainer[str]
    dns_search: _containers.RepeatedScalarFieldContainer[str]
    dns_options: _containers.RepeatedScalarFieldContainer[str]
    sysctls: _containers.ScalarMap[str, str]
    cap_add: _containers.RepeatedScalarFieldContainer[str]
    cap_drop: _containers.RepeatedScalarFieldContainer[str]
    ulimits: _containers.RepeatedCompositeFieldContainer[Ulimit]
    oom_score_adj: int
    shm_size_bytes: int
    privileged: bool
    seccomp: str
    allow_new_privileges: bool
    pull_policy: str
    drain_delay_ms: int
    devices: _containers.RepeatedScalarFieldContainer[str]
    readiness: HealthConfig
    startup: HealthConfig
    seccomp_profile: str
    pid_mode: str
    ipc_mode: str
    userns: str
    cgroup_parent: str
    runtime: str
    annotations: _containers.ScalarMap[str, str]
    domainname: str
    log: LogConfig
    gpus: str
    secrets: _containers.RepeatedCompositeFieldContainer[FileReference]
    configs: _containers.RepeatedCompositeFieldContainer[FileReference]
    def __init__(self, image: _Optional[str] = ..., image_digest: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., args: _Optional[_Iterable[str]] = ..., env: _Optional[_Iterable[str]] = ..., dir: _Optional[str] = ..., user: _Optional[str] = ..., groups: _Optional[_Iterable[str]] = ..., hostname: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., init: _Optional[bool] = ..., no_init: _Optional[bool] = ..., tty: _Optional[bool] = ..., open_stdin: _Optional[bool] = ..., read_only: _Optional[bool] = ..., stop_signal: _Optional[str] = ..., stop_grace_ms: _Optional[int] = ..., mounts: _Optional[_Iterable[_Union[Mount, _Mapping]]] = ..., health: _Optional[_Union[HealthConfig, _Mapping]] = ..., hosts: _Optional[_Iterable[_Union[Host, _Mapping]]] = ..., dns_servers: _Optional[_Iterable[str]] = ..., dns_search: _Optional[_Iterable[str]] = ..., dns_options: _Optional[_Iterable[str]] = ..., sysctls: _Optional[_Mapping[str, str]] = ..., cap_add: _Optional[_Iterable[str]] = ..., cap_drop: _Optional[_Iterable[str]] = ..., ulimits: _Optional[_Iterable[_Union[Ulimit, _Mapping]]] = ..., oom_score_adj: _Optional[int] = ..., shm_size_bytes: _Optional[int] = ..., privileged: _Optional[bool] = ..., seccomp: _Optional[str] = ..., allow_new_privileges: _Optional[bool] = ..., pull_policy: _Optional[str] = ..., drain_delay_ms: _Optional[int] = ..., devices: _Optional[_Iterable[str]] = ..., readiness: _Optional[_Union[HealthConfig, _Mapping]] = ..., startup: _Optional[_Union[HealthConfig, _Mapping]] = ..., seccomp_profile: _Optional[str] = ..., pid_mode: _Optional[str] = ..., ipc_mode: _Optional[str] = ..., userns: _Optional[str] = ..., cgroup_parent: _Optional[str] = ..., runtime: _Optional[str] = ..., annotations: _Optional[_Mapping[str, str]] = ..., domainname: _Optional[str] = ..., log: _Optional[_Union[LogConfig, _Mapping]] = ..., gpus: _Optional[str] = ..., secrets: _Optional[_Iterable[_Union[FileReference, _Mapping]]] = ..., configs: _Optional[_Iterable[_Union[FileReference, _Mapping]]] = ...) -> None: ...

class RestartPolicy(_message.Message):
    __slots__ = ("condition", "delay_ms", "max_attempts", "window_ms", "max_delay_ms", "constant_delay")
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    CONSTANT_DELAY_FIELD_NUMBER: _ClassVar[int]
    condition: RestartCondition
    delay_ms: int
    max_attempts: int
    window_ms: int
    max_delay_ms: int
    constant_delay: bool
    def __init__(self, condition: _Optional[_Union[RestartCondition, str]] = ..., delay_ms: _Optional[int] = ..., max_attempts: _Optional[int] = ..., window_ms: _Optional[int] = ..., max_delay_ms: _Optional[int] = ..., constant_delay: _Optional[bool] = ...) -> None: ...

class Analysis(_message.Message):
    __slots__ = ("max_failure_ratio", "max_probe_ms", "window_ms")
    MAX_FAILURE_RATIO_FIELD_NUMBER: _ClassVar[int]
    MAX_PROBE_MS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_MS_FIELD_NUMBER: _ClassVar[int]
    max_failure_ratio: float
    max_probe_ms: int
    window_ms: int
    def __init__(self, max_failure_ratio: _Optional[float] = ..., max_probe_ms: _Optional[int] = ..., window_ms: _Optional[int] = ...) -> None: ...

class UpdateConfig(_message.Message):
    __slots__ = ("parallelism", "delay_ms", "failure_action", "monitor_ms", "max_failure_ratio", "order", "parallelism_percent", "progress_deadline_ms", "strategy", "canary", "analysis", "auto_promote", "prefetch", "keep_old_ms")
    PARALLELISM_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_ACTION_FIELD_NUMBER: _ClassVar[int]
    MONITOR_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_FAILURE_RATIO_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    PARALLELISM_PERCENT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    ANALYSIS_FIELD_NUMBER: _ClassVar[int]
    AUTO_PROMOTE_FIELD_NUMBER: _ClassVar[int]
    PREFETCH_FIELD_NUMBER: _ClassVar[int]
    KEEP_OLD_MS_FIELD_NUMBER: _ClassVar[int]
    parallelism: int
    delay_ms: int
    failure_action: FailureAction
    monitor_ms: int
    max_failure_ratio: float
    order: UpdateOrder
    parallelism_percent: int
    progress_deadline_ms: int
    strategy: UpdateStrategy
    canary: str
    analysis: Analysis
    auto_promote: bool
    prefetch: bool
    keep_old_ms: int
    def __init__(self, parallelism: _Optional[int] = ..., delay_ms: _Optional[int] = ..., failure_action: _Optional[_Union[FailureAction, str]] = ..., monitor_ms: _Optional[int] = ..., max_failure_ratio: _Optional[float] = ..., order: _Optional[_Union[UpdateOrder, str]] = ..., parallelism_percent: _Optional[int] = ..., progress_deadline_ms: _Optional[int] = ..., strategy: _Optional[_Union[UpdateStrategy, str]] = ..., canary: _Optional[str] = ..., analysis: _Optional[_Union[Analysis, _Mapping]] = ..., auto_promote: _Optional[bool] = ..., prefetch: _Optional[bool] = ..., keep_old_ms: _Optional[int] = ...) -> None: ...

class SpreadWeight(_message.Message):
    __slots__ = ("value", "percent")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    value: str
    percent: int
    def __init__(self, value: _Optional[str] = ..., percent: _Optional[int] = ...) -> None: ...

class Preference(_message.Message):
    __slots__ = ("spread", "weights", "max_skew")
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    MAX_SKEW_FIELD_NUMBER: _ClassVar[int]
    spread: str
    weights: _containers.RepeatedCompositeFieldContainer[SpreadWeight]
    max_skew: int
    def __init__(self, spread: _Optional[str] = ..., weights: _Optional[_Iterable[_Union[SpreadWeight, _Mapping]]] = ..., max_skew: _Optional[int] = ...) -> None: ...

class Taint(_message.Message):
    __slots__ = ("key", "value", "effect")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    effect: TaintEffect
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ..., effect: _Optional[_Union[TaintEffect, str]] = ...) -> None: ...

class Toleration(_message.Message):
    __slots__ = ("key", "value", "effect")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    effect: TaintEffect
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ..., effect: _Optional[_Union[TaintEffect, str]] = ...) -> None: ...

class Affinity(_message.Message):
    __slots__ = ("service", "anti", "topology", "soft")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ANTI_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    SOFT_FIELD_NUMBER: _ClassVar[int]
    service: str
    anti: bool
    topology: str
    soft: int
    def __init__(self, service: _Optional[str] = ..., anti: _Optional[bool] = ..., topology: _Optional[str] = ..., soft: _Optional[int] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("constraints", "preferences", "max_replicas_per_node", "platforms", "tolerations", "affinities")
    CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    PREFERENCES_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLICAS_PER_NODE_FIELD_NUMBER: _ClassVar[int]
    PLATFORMS_FIELD_NUMBER: _ClassVar[int]
    TOLERATIONS_FIELD_NUMBER: _ClassVar[int]
    AFFINITIES_FIELD_NUMBER: _ClassVar[int]
    constraints: _containers.RepeatedScalarFieldContainer[str]
    preferences: _containers.RepeatedCompositeFieldContainer[Preference]
    max_replicas_per_node: int
    platforms: _containers.RepeatedCompositeFieldContainer[Platform]
    tolerations: _containers.RepeatedCompositeFieldContainer[Toleration]
    affinities: _containers.RepeatedCompositeFieldContainer[Affinity]
    def __init__(self, constraints: _Optional[_Iterable[str]] = ..., preferences: _Optional[_Iterable[_Union[Preference, _Mapping]]] = ..., max_replicas_per_node: _Optional[int] = ..., platforms: _Optional[_Iterable[_Union[Platform, _Mapping]]] = ..., tolerations: _Optional[_Iterable[_Union[Toleration, _Mapping]]] = ..., affinities: _Optional[_Iterable[_Union[Affinity, _Mapping]]] = ...) -> None: ...

class Port(_message.Message):
    __slots__ = ("name", "protocol", "target", "published", "mode", "address")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    name: str
    protocol: Protocol
    target: int
    published: int
    mode: PublishMode
    address: str
    def __init__(self, name: _Optional[str] = ..., protocol: _Optional[_Union[Protocol, str]] = ..., target: _Optional[int] = ..., published: _Optional[int] = ..., mode: _Optional[_Union[PublishMode, str]] = ..., address: _Optional[str] = ...) -> None: ...

class NetworkReference(_message.Message):
    __slots__ = ("target", "aliases", "address", "task_addresses", "task_addresses6")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TASK_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    TASK_ADDRESSES6_FIELD_NUMBER: _ClassVar[int]
    target: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    address: str
    task_addresses: _containers.RepeatedScalarFieldContainer[str]
    task_addresses6: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, target: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., address: _Optional[str] = ..., task_addresses: _Optional[_Iterable[str]] = ..., task_addresses6: _Optional[_Iterable[str]] = ...) -> None: ...

class PodContainer(_message.Message):
    __slots__ = ("name", "container", "resources")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    name: str
    container: ContainerSpec
    resources: ResourceRequirements
    def __init__(self, name: _Optional[str] = ..., container: _Optional[_Union[ContainerSpec, _Mapping]] = ..., resources: _Optional[_Union[ResourceRequirements, _Mapping]] = ...) -> None: ...

class TaskSpec(_message.Message):
    __slots__ = ("container", "resources", "restart", "placement", "networks", "force_update", "init_containers", "sidecars", "share_pid", "pod_resources", "network_mode", "stop_after_ms", "pull_only", "fenced")
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    NETWORKS_FIELD_NUMBER: _ClassVar[int]
    FORCE_UPDATE_FIELD_NUMBER: _ClassVar[int]
    INIT_CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    SIDECARS_FIELD_NUMBER: _ClassVar[int]
    SHARE_PID_FIELD_NUMBER: _ClassVar[int]
    POD_RESOURCES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_MODE_FIELD_NUMBER: _ClassVar[int]
    STOP_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    PULL_ONLY_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    container: ContainerSpec
    resources: ResourceRequirements
    restart: RestartPolicy
    placement: Placement
    networks: _containers.RepeatedCompositeFieldContainer[NetworkReference]
    force_update: int
    init_containers: _containers.RepeatedCompositeFieldContainer[PodContainer]
    sidecars: _containers.RepeatedCompositeFieldContainer[PodContainer]
    share_pid: bool
    pod_resources: ResourceRequirements
    network_mode: str
    stop_after_ms: int
    pull_only: bool
    fenced: bool
    def __init__(self, container: _Optional[_Union[ContainerSpec, _Mapping]] = ..., resources: _Optional[_Union[ResourceRequirements, _Mapping]] = ..., restart: _Optional[_Union[RestartPolicy, _Mapping]] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ..., networks: _Optional[_Iterable[_Union[NetworkReference, _Mapping]]] = ..., force_update: _Optional[int] = ..., init_containers: _Optional[_Iterable[_Union[PodContainer, _Mapping]]] = ..., sidecars: _Optional[_Iterable[_Union[PodContainer, _Mapping]]] = ..., share_pid: _Optional[bool] = ..., pod_resources: _Optional[_Union[ResourceRequirements, _Mapping]] = ..., network_mode: _Optional[str] = ..., stop_after_ms: _Optional[int] = ..., pull_only: _Optional[bool] = ..., fenced: _Optional[bool] = ...) -> None: ...
