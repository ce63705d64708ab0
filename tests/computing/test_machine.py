"""The machine: processes, devices, formats, limits of containers; GPUs are stand-ins where there are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from transformers import TrainingArguments

from computing import machine
from operating_room.errors import UserError
from operating_room.work import containers, processes
from operating_room.work.processes import Share
from tests.computing.machines import have, start

CPU = torch.device("cpu")


def test_alone_without_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.share() == Share(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "1")  # as many clusters do for every job
    monkeypatch.setenv("RANK", "0")
    assert not processes.is_started()
    assert processes.is_first()


def test_a_start_by_torchrun_is_known_also_with_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, 0, 1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert processes.is_started()
    start(monkeypatch, 3, 8, 1)
    assert processes.share() == Share(3, 8, 1)
    assert not processes.is_first()


@pytest.mark.parametrize(("rank", "number", "local"), [(2, 2, 0), (-1, 2, 0), ("x", 2, 0), (0, 2, -1)])
def test_a_place_that_cannot_be_is_named(
    monkeypatch: pytest.MonkeyPatch, rank: object, number: object, local: object
) -> None:
    start(monkeypatch, rank, number, local)
    with pytest.raises(UserError, match=f"RANK={rank}, WORLD_SIZE={number}"):
        processes.share()


def test_one_process_has_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.choose_device("cpu") == CPU
    have(monkeypatch, 0)
    assert machine.choose_device() == CPU
    have(monkeypatch, 4)
    assert machine.choose_device() == torch.device("cuda", 0)
    assert machine.choose_device("cuda:3") == torch.device("cuda", 3)
    start(monkeypatch, 6, 8, 2)
    assert machine.choose_device() == machine.choose_device("cuda") == torch.device("cuda", 2)
    have(monkeypatch, 1)  # a scheduler that shows each process its own GPU only
    assert machine.choose_device() == torch.device("cuda", 0)
    have(monkeypatch, 2)
    with pytest.raises(UserError, match="no GPU of its own"):
        machine.choose_device()


@pytest.mark.parametrize("wanted", ["cuda:7", "cuda:", "cuda:-1", "gpu", "", "mps", "cuda:0x"])
def test_a_device_that_is_not_there_is_answered_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    have(monkeypatch, 1)
    with pytest.raises(UserError, match="are: cuda:0 Card 0; choose another"):
        machine.choose_device(wanted)


def test_a_gpu_is_asked_for_and_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, 0)
    with pytest.raises(UserError, match="the GPUs of this machine are: none"):
        machine.choose_device("cuda")


def test_bfloat16_only_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    have(monkeypatch, 1, bfloat16=False)
    assert machine.half_dtype(gpu) == torch.float16
    with pytest.raises(UserError, match="Card 0 has no bfloat16"):
        machine.half_dtype(gpu, "bfloat16")
    assert machine.trainer_options("auto") | {"ddp_backend": None} == {
        "use_cpu": False,
        "bf16": False,
        "fp16": True,
        "ddp_backend": None,
        "dataloader_pin_memory": True,
        "ddp_timeout": 30 * 86_400,
    }
    have(monkeypatch, 1)
    assert machine.half_dtype(gpu) == machine.half_dtype(CPU) == torch.bfloat16
    assert machine.half_dtype(gpu, "float16") == torch.float16
    assert machine.trainer_options("auto")["bf16"]
    with pytest.raises(UserError, match="float16 needs a GPU"):
        machine.half_dtype(CPU, "float16")


def test_trainer_options_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, 0)
    assert machine.trainer_options("auto") == machine.trainer_options("no")
    assert machine.trainer_options("bfloat16")["bf16"]
    start(monkeypatch, 0, 2)
    assert machine.trainer_options("no")["ddp_backend"] == "gloo"


def test_each_process_trains_on_the_only_gpu_that_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number is 0 there, whatever that of the process: accelerate would hand on the latter."""
    accelerator = Accelerator(cpu=True)
    for name, value in (("multi_device", True), ("local_process_index", 3)):
        monkeypatch.setattr(Accelerator, name, value)
    given: list[object] = []
    wrap = SimpleNamespace(DistributedDataParallel=lambda model, device_ids, **_: given.append(device_ids) or model)
    monkeypatch.setattr(torch.nn, "parallel", wrap)
    monkeypatch.setenv("ACCELERATE_BYPASS_DEVICE_MAP", "false")  # else it would stay
    start(monkeypatch, 3, 4, 3)
    for gpus, expected in ((4, [3]), (1, None)):
        have(monkeypatch, gpus)
        machine.trainer_options("no")
        accelerator.prepare_model(torch.nn.Linear(2, 2), device_placement=False)
        assert given.pop() == expected


def test_processes_of_a_machine_divide_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operating_room.work.processes.cpu_threads", lambda: 8)
    assert processes.own_threads() == 8
    start(monkeypatch, 5, 12)
    for beside, threads in (("4", 2), ("16", 1), ("some", 8)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", beside)
        assert processes.own_threads() == threads


def test_one_process_never_spreads_over_several_gpus(tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    arguments._n_gpu = 4
    assert machine.one_gpu(arguments).n_gpu == 1


def test_seeded_draws_are_repeatable_and_leave_the_others_alone() -> None:
    state = torch.get_rng_state()
    with machine.seeded(3):
        first = torch.rand(4)
    with machine.seeded(3):
        assert torch.equal(torch.rand(4), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_makes_products_half() -> None:
    product = torch.nn.Linear(2, 2)
    with machine.autocast(CPU, torch.bfloat16):
        assert product(torch.ones(2)).dtype == torch.bfloat16
    with machine.autocast(CPU, None):
        assert product(torch.ones(2)).dtype == torch.float32


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_a_container_count(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of 3 GB and 1.5 processors on a machine with more; the group around the job's own has the limit."""
    monkeypatch.setattr(containers, "_CGROUPS", tmp_path)
    monkeypatch.setattr(
        containers, "_own_cgroups", lambda: ["0::/job/task", "5:memory:/job/task", "1:cpu,cpuacct:/job"]
    )
    gb = 1 << 30
    if version == 2:
        write(tmp_path / "job", memory__max=3 * gb, memory__current=2 * gb, cpu__max="150000 100000")
        write(tmp_path / "job", memory__stat=f"anon 5\ninactive_file {gb // 2}\nactive_file {gb // 2}")
        write(tmp_path / "job" / "task", memory__max="max", memory__current=gb, cpu__max="max 100000")
    else:
        memory, cpu = tmp_path / "memory", tmp_path / "cpu"
        write(memory / "job", memory__limit_in_bytes=3 * gb, memory__usage_in_bytes=2 * gb)
        write(memory / "job", memory__stat=f"cache 1\ntotal_inactive_file {gb // 2}\ntotal_active_file {gb // 2}")
        write(memory / "job" / "task", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=gb)
        write(cpu / "job", cpu__cfs_quota_us=150000, cpu__cfs_period_us=100000)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=64 * gb, total=128 * gb))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert machine.free_memory() == 2 * gb  # pages of files can be given back
    assert machine.total_memory() == 3 * gb
    assert processes.cpu_threads() == 2


def test_what_does_not_fit_is_said_before_it_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device=None: 23_000_000_000)
    machine.require_memory(22_000_000_000, "loading")
    expected = r"^loading needs 28.0 GB, this machine has 23.0 GB free; --bits 16 needs 15 GB$"
    with pytest.raises(UserError, match=expected):
        machine.require_memory(28_000_000_000, "loading", CPU, "--bits 16 needs 15 GB")


def test_random_numbers_go_on_where_they_stood() -> None:
    torch.manual_seed(3)
    kept = machine.random_state(CPU)
    drawn = torch.rand(4)
    machine.go_on_randomly(kept, CPU)
    assert torch.equal(torch.rand(4), drawn)
    assert len(kept) == 1


def test_random_numbers_of_a_gpu_are_those_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the second of two GPUs: to ask the first one would open a context on it. A state of a CPU goes on on a GPU."""
    gpu, of_gpu = torch.device("cuda", 1), {torch.device("cuda", 1): torch.tensor([7], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", of_gpu.__getitem__)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: of_gpu.update({device: state}))
    kept = machine.random_state(gpu)
    of_gpu[gpu] = torch.tensor([9], dtype=torch.uint8)
    machine.go_on_randomly(kept[:1], gpu)
    assert of_gpu[gpu].item() == 9
    machine.go_on_randomly(kept, gpu)
    assert of_gpu == {gpu: kept[1]}
    assert of_gpu[gpu].item() == 7
    machine.go_on_randomly(kept, CPU)


def test_nothing_else_asks_for_gpus_or_processes() -> None:
    root = Path(__file__).parents[2]
    asked = (
        "torch.cuda.",
        "cpu_count",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "SC_PHYS_PAGES",
        "is_bf16_supported",
        "psutil",
        "fork_rng",
    )
    packages = ("operating_room", "operating_room_simulator", "panoptic_segmentation", "scene_graph_generation", "mmor")
    files = [path for package in packages for path in (root / package).rglob("*.py")]
    assert len(files) > 50
    found = {
        f"{path.relative_to(root)}: {word}"
        for path in files
        if path != root / "operating_room" / "work" / "processes.py"
        for word in asked
        if word in path.read_text(encoding="utf-8")
    }
    assert found <= {"scene_graph_generation/model/gpu_kernels.py: torch.cuda."}  # a capability, of a tensor's own GPU


def test_the_module_needs_no_torch() -> None:
    code = (
        "import sys, computing.machine, operating_room.work.processes as p;"
        "p.cpu_threads(); p.is_first(); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_what_torch_keeps_of_tensors_that_are_gone_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    for name, value in (("mem_get_info", (1 << 30, 24 << 30)), ("memory_reserved", 20 << 30), ("memory_allocated", 0)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert machine.free_memory(gpu) == 21 << 30
    machine.require_memory(20 << 30, "the next model", gpu)


def test_who_asks_for_a_gpu_where_there_is_none_is_not_told_to_start_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", list)
    with pytest.raises(UserError, match="none; choose another one, cpu always is"):
        machine.choose_device("cuda")
