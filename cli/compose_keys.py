"""The keys of a compose service, and what becomes of each: a table for compose_service and docs/compose.md."""

from __future__ import annotations

# A text that one flag of `service create` takes as it is.
TEXT_FLAGS = {
    "cgroup_parent": "cgroup-parent", "cpus": "limit-cpu", "cpuset": "cpuset-cpus", "domainname": "domainname",
    "hostname": "hostname", "ipc": "ipc", "mem_limit": "limit-memory", "mem_reservation": "reserve-memory",
    "mem_swappiness": "memory-swappiness", "oom_score_adj": "oom-score-adj", "pid": "pid",
    "pids_limit": "limit-pids", "runtime": "runtime", "scale": "replicas", "shm_size": "shm-size",
    "stop_grace_period": "stop-grace-period", "stop_signal": "stop-signal", "user": "user",
    "userns_mode": "userns", "working_dir": "workdir",
}  # fmt: skip
SWITCH_FLAGS = {
    "init": "init", "oom_kill_disable": "oom_kill_disable", "privileged": "privileged", "read_only": "read_only",
    "tty": "tty",
}  # fmt: skip
# Lists of texts; for those in SINGLE one text alone will do.
LIST_FLAGS = {
    "cap_add": "cap-add", "cap_drop": "cap-drop", "devices": "device", "dns": "dns", "dns_opt": "dns-option",
    "dns_search": "dns-search", "group_add": "group", "security_opt": "security-opt", "tmpfs": "tmpfs",
}  # fmt: skip
SINGLE = {"dns", "dns_search", "tmpfs"}
PAIR_FLAGS = {"annotations": "annotation", "labels": "container-label", "sysctls": "sysctl"}
OWN = {
    "blkio_config", "command", "configs", "depends_on", "deploy", "entrypoint", "env_file", "environment",
    "extends", "extra_hosts", "gpus", "healthcheck", "image", "logging", "network_mode", "networks", "ports",
    "profiles", "pull_policy", "restart", "secrets", "stdin_open", "ulimits", "volumes",
}  # fmt: skip
# What Docker ignores in swarm mode, too: said, not refused.
IGNORED = {
    "attach": "it is about `compose up` in a terminal",
    "build": "images are not built here; `swarmpy image build` makes them",
    "cgroupns_mode": "containers have a cgroup namespace of their own",
    "container_name": "tasks have names of their own; the service's name leads to them",
    "develop": "it is for developing on one machine",
    "expose": "services of one network reach every port of each other",
    "external_links": "names of services are found in DNS",
    "links": "names of services are found in DNS; give aliases under networks",
    "mac_address": "addresses come from the cluster",
}
# Known and not built: the reason, or what to do instead.
REFUSED = {
    "cgroup": "containers have a cgroup namespace of their own",
    "cpu_count": "it is for Windows: use deploy.resources.limits.cpus",
    "cpu_percent": "it is for Windows: use deploy.resources.limits.cpus",
    "cpu_period": "use deploy.resources.limits.cpus",
    "cpu_quota": "use deploy.resources.limits.cpus",
    "cpu_rt_period": "real-time scheduling is not built",
    "cpu_rt_runtime": "real-time scheduling is not built",
    "cpu_shares": "use deploy.resources.limits.cpus",
    "credential_spec": "it is for Windows",
    "device_cgroup_rules": "use devices",
    "isolation": "it is for Windows",
    "label_file": "write them under labels",
    "memswap_limit": "use x-swarmpy: {memory-swap: …}, which is the swap beside the memory limit",
    "models": "models are not built",
    "platform": "use deploy.placement.constraints: [node.platform.arch == …]",
    "post_start": "hooks are not built; use x-swarmpy: {init-container: …} or {sidecar: …}",
    "pre_start": "use x-swarmpy: {pre-start: 'IMAGE COMMAND'}",
    "pre_stop": "hooks are not built; handle stop_signal in the container",
    "provider": "providers are not built",
    "pull_refresh_after": "use pull_policy: always",
    "storage_opt": "the size of a container's own layer has no limit here",
    "use_api_socket": "there is no Docker API in the cluster",
    "uts": "containers have a host name of their own",
    "volume_driver": "write it under volumes, at the top of the file",
    "volumes_from": "write the volume under both services",
}
SUPPORTED = {*TEXT_FLAGS, *SWITCH_FLAGS, *LIST_FLAGS, *PAIR_FLAGS, *OWN}
DEPLOY = {
    "endpoint_mode", "labels", "mode", "placement", "replicas", "resources", "restart_policy", "rollback_config",
    "update_config",
}  # fmt: skip
EXTENSION = "x-swarmpy"
