"""The limits that a container or a cluster's job sets: control groups of Linux, both versions (cgroups(7))."""

from __future__ import annotations

from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # cgroups of version 1 write a number above this for "no limit"


def processor_limits() -> list[float]:
    """Processors' worth of time of each cgroup around this process that has a quota."""
    found = []
    for group in _groups("cpu"):
        limit = _words(group / "cpu.max") or _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        if len(limit) == 2 and limit[0].isdecimal():  # "max" or -1: no limit
            found.append(int(limit[0]) / int(limit[1]))
    return found


def memory_limits() -> list[tuple[int, int]]:
    """(limit, use that cannot be given back) in bytes of each cgroup around this process that has a limit."""
    found = []
    for group in _groups("memory"):
        newer = (group / "memory.max").exists()
        limit = _words(group / ("memory.max" if newer else "memory.limit_in_bytes"))
        used = _words(group / ("memory.current" if newer else "memory.usage_in_bytes"))
        if limit and used and limit[0].isdecimal() and int(limit[0]) < _UNLIMITED:
            stat = _words(group / "memory.stat")
            # Pages of files are dropped when memory is short, those that were read twice (active), too.
            keys = [f"{'' if newer else 'total_'}{kind}_file" for kind in ("inactive", "active")]
            cached = sum(int(stat[stat.index(key) + 1]) for key in keys if key in stat)
            found.append((int(limit[0]), int(used[0]) - cached))
    return found


def _groups(controller: str) -> list[Path]:
    """Folders of this process's cgroup for a controller and of all around it, for both versions of cgroups.

    Inside a container the path in /proc is often the host's, and the container's own limits are at the root.
    """
    found: dict[Path, None] = {}
    for line in _own_cgroups():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = _CGROUPS / controller if names else _CGROUPS
        folder = root / path.strip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(root) and group.is_dir():
                found[group] = None
    return list(found)


def _own_cgroups() -> list[str]:
    """Lines `number:controllers:path`; none on systems other than Linux."""
    try:
        return Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
