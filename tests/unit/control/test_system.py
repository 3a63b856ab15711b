import threading
import time
from pathlib import Path

import psutil
import pytest

from control.telemetry.system import CpuLoad, SystemReader, mounts_of
from stepserve.cgroup import Cgroup

GIB = 1024**3


def write(root: Path, **files: str) -> Cgroup:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Cgroup(root)


def test_a_containers_limits_are_its_total(tmp_path: Path) -> None:
    cgroup = write(
        tmp_path,
        memory_dot_max=str(GIB // 2),
        memory_dot_current=str(GIB // 4),
        memory_dot_stat=f"anon 5\ninactive_file {GIB // 8}\n",
        cpu_dot_max="150000 100000\n",
        cpu_dot_stat="usage_usec 5000000\nuser_usec 1\n",
    )
    seen = SystemReader([tmp_path], cgroup=cgroup).read()
    assert (seen.ram_total_gb, seen.ram_used_gb, seen.ram_percent) == (0.5, 0.125, 25.0)
    assert seen.cpus == 1.5


def test_the_load_is_that_of_the_containers_share(tmp_path: Path) -> None:
    cgroup = write(tmp_path, cpu_dot_max="100000 100000\n", cpu_dot_stat="usage_usec 0\n")
    reader = SystemReader([tmp_path], cgroup=cgroup)
    reader.sample_cpu()
    write(tmp_path, cpu_dot_stat="usage_usec 900000000\n")  # far more than can be: it is cut off at all
    assert reader.read().cpu_load == 0.0, "reading takes no sample"
    reader.sample_cpu()
    assert [reader.read().cpu_load for _ in range(3)] == [1.0] * 3, "all who ask see the same"


def test_half_of_a_containers_two_processors(tmp_path: Path) -> None:
    cgroup = write(tmp_path, cpu_dot_max="200000 100000\n", cpu_dot_stat="usage_usec 0\n")
    times = iter([10.0, 11.0, 13.0])
    load = CpuLoad(cgroup, clock=lambda: next(times))
    load.sample()
    write(tmp_path, cpu_dot_stat="usage_usec 2000000\n")
    load.sample()
    assert load.now == 0.5


def test_version_one_and_no_limit(tmp_path: Path) -> None:
    old = write(
        tmp_path / "v1",
        memory__memory_dot_limit_in_bytes=str(GIB),
        memory__memory_dot_usage_in_bytes=str(GIB // 2),
        cpu__cpu_dot_cfs_quota_us="50000",
        cpu__cpu_dot_cfs_period_us="100000",
    )
    assert (old.memory_limit_bytes(), old.memory_used_bytes(), old.cpus()) == (GIB, GIB // 2, 0.5)
    free = write(tmp_path / "free", memory_dot_max="max\n", cpu_dot_max="max 100000\n")
    seen = SystemReader([tmp_path], cgroup=free).read()
    assert seen.ram_total_gb == pytest.approx(psutil.virtual_memory().total / GIB, rel=0.01)
    assert 0 <= seen.cpu_load <= 1


def test_a_mount_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    released = threading.Event()
    asked: list[str] = []

    def usage(mount: str) -> tuple[int, int]:
        asked.append(mount)
        if mount == "/nfs":
            released.wait(240)
        return GIB, 4 * GIB

    reader = SystemReader([tmp_path], usage=usage, mounts=lambda: ["/", "/nfs"])
    reader.read()
    started = time.monotonic()
    for _ in range(5):
        here, far = reader.read().disk
    assert time.monotonic() - started < 1.25, "each look that waits takes half a second"
    assert (here.used_gb, here.total_gb, here.percent, here.problem) == (1, 4, 25.0, None)
    assert (far.mount, far.used_gb, far.problem) == ("/nfs", None, "does not answer")
    assert asked.count("/nfs") == 1, "one thread waits for it, not one more each time"
    released.set()


def test_the_folders_own_mount_is_always_there(tmp_path: Path) -> None:
    found = mounts_of([tmp_path])
    assert any(str(tmp_path).startswith(mount) for mount in found)
    assert not {"/proc", "/sys"} & set(found)
