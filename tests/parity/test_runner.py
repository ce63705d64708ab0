"""The parity runner itself, the golden set, and the published numbers where they are at hand."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scene_graph_generation.samples.sampler import length_grouped_order
from tests.parity.__main__ import find_cases, run
from tests.parity.case import PUBLISHED as SHARED
from tests.parity.case import Result, beside, compare
from tests.parity.kinds_stage1 import Case

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"


def test_golden_set(capsys: pytest.CaptureFixture[str]) -> None:
    status = run(GOLDEN)
    output = capsys.readouterr().out
    assert status == 0, output
    assert "FAIL" not in output


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the published cases are not beside this repository ({SHARED})")
@pytest.mark.parametrize("part", ["data", "stage1", "stage2"])
def test_published_cases(part: str) -> None:
    command = [sys.executable, "-m", "tests.parity", str(SHARED / part)]
    finished = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert " 0 failed" in finished.stdout


def test_golden_set_is_small_and_synthetic() -> None:
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    assert not any(path.name == "real" for path in GOLDEN.rglob("*"))


@pytest.mark.parametrize("name", ["mystery/cases.json", "case12_mystery.json", "notes.txt", "lonely.safetensors"])
def test_unknown_kind_fails(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    (tmp_path / "case11_sampler.json").write_text(json.dumps(_sampler_case()))
    assert run(tmp_path) == 1
    output = capsys.readouterr().out
    assert "unknown kind FAIL" in output
    assert output.endswith("3 passed, 1 failed\n")


def test_no_case_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 1
    assert run(tmp_path / "missing") == 1
    assert "no case" in capsys.readouterr().out


def test_wrong_numbers_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = _sampler_case()
    order = facts["all_positive_batch4_world4"]
    order[0], order[1] = order[1], order[0]
    (tmp_path / "case11_sampler_s3.json").write_text(json.dumps(facts))
    assert run(tmp_path) == 1
    output = capsys.readouterr().out
    assert "all_positive_batch4_world4: error" in output
    assert output.endswith("2 passed, 1 failed\n")


def test_cases_of_other_counts_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Batch, world and number of samples of the sampler, and windows of VPQ, are read off the case."""
    lengths = _sampler_case()["lengths"]
    order = length_grouped_order(lengths, 2, 8, torch.Generator().manual_seed(5))
    facts = {"seed": 5, "lengths": lengths, "randperm64": [], "all_positive_batch2_world8": order}
    (tmp_path / "case11_sampler_s5.json").write_text(json.dumps({**facts, "all_negative_47_samples": [*range(47)]}))
    assert run(tmp_path) == 1
    output = capsys.readouterr().out
    assert "all_positive_batch2_world8: error 0, tolerance 0 ok" in output
    assert output.endswith("1 passed, 1 failed\n")
    shutil.copytree(GOLDEN / "data" / "vpq", tmp_path / "vpq")
    expected = next((tmp_path / "vpq").glob("*/expected.json"))
    content = json.loads(expected.read_text())
    content["per_nframes"]["3"] = content["per_nframes"]["2"]
    expected.write_text(json.dumps(content))
    assert run(tmp_path / "vpq") == 1
    assert "n=3 total: error" in capsys.readouterr().out


def test_labels_of_no_take_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A 4D-OR take outside 1 to 10 is an error (data specification, section 3)."""
    raw = {"rel_annotations": [["human_1", "Touching", "Patient", "", ""]], "human_name_annotations": {}}
    names = [f"4D-OR_data/export_holistic_take{n}_processed/relation_labels/000000.json" for n in (2, 11)]
    facts = {"raw_files": {names[0]: raw}, "expected": {}, "classes_txt": "", "relationships_txt": ""}
    case = tmp_path / "relation_conversion" / "cases.json"
    case.parent.mkdir()
    for name, verdict in zip(names, ("FAIL", "ok")):
        case.write_text(json.dumps({**facts, "rejected": [{"path": name, "raw": raw}]}))
        run(tmp_path)
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "rejected" in line]
        assert verdict in line


def test_cases_find_what_they_share(tmp_path: Path) -> None:
    """A case that has been put into a folder alone, under a name without seed, finds its partners and manifests."""
    for name in ("segmenter", "tracker"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"case": name, "seed": 3}))
        save_file({"frames": torch.zeros(1, 2, 2, 3, dtype=torch.uint8)}, tmp_path / f"{name}.safetensors")
    assert Case(tmp_path / "tracker.json").frames().shape == (1, 3, 2, 2)
    (tmp_path / "weight_scale.json").write_text("{}")
    assert beside(tmp_path / "tracker.json", "stage1", "weight_scale.json").parent == tmp_path
    elsewhere = beside(tmp_path / "tracker.json", "stage1", "manifest_online.json.gz")
    assert elsewhere == SHARED / "stage1" / "manifest_online.json.gz"


def test_a_broken_case_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "case11_sampler.json").write_text("{}")
    (tmp_path / "case12_sampler_s1.json").write_text(json.dumps(_sampler_case()))
    assert run(tmp_path) == 1
    output = capsys.readouterr().out
    assert "case11_sampler.json: KeyError: 'lengths' FAIL" in output
    assert output.endswith("3 passed, 1 failed\n")


def test_cases_are_found_in_folders_of_folders(tmp_path: Path) -> None:
    names = ("data/memory/x.json", "stage1/manifest_ctvis.json.gz", "stage1/post_s7.json", "stage1/post_seed8.json")
    for name in (*(f"a/{name}" for name in names), "a/data/real/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = [(path.relative_to(tmp_path).as_posix(), kind) for path, kind in find_cases(tmp_path, {"memory", "post"})]
    assert found == [
        ("a/data/memory", "memory"),
        ("a/stage1/post_s7.json", "post"),
        ("a/stage1/post_seed8.json", "post"),
    ]


@pytest.mark.parametrize(
    ("ours", "theirs", "error"),
    [
        (1.5, 1.0, 0.5),
        ([1, [2.0, 3]], [1, [2.5, 3]], 0.5),
        ({"a": "x"}, {"a": "x"}, 0.0),
        ({"a": "x"}, {"a": "y"}, math.inf),
        ({"a": 1}, {"b": 1}, math.inf),
        ([1, 2], [1, 2, 3], math.inf),
        ([1], "1", math.inf),
        (None, 0, math.inf),
        ((1, 2), [1, 2], 0.0),
        (np.zeros((2, 2)), torch.full((2, 2), 0.25), 0.25),
        (np.zeros((2, 2)), np.zeros((2, 1)), math.inf),
        (np.array([1, 2], np.uint8), [2, 1], 1.0),
        (torch.zeros(0), np.zeros(0), 0.0),
        (math.inf, math.inf, 0.0),
        (np.array([math.inf]), np.array([math.inf]), 0.0),
    ],
)
def test_compare(ours: object, theirs: object, error: float) -> None:
    assert compare("x", ours, theirs, 0).error == error


@pytest.mark.parametrize("nan", [math.nan, [0.0, math.nan], np.array([math.nan, 0])])
def test_nan_never_passes(nan: object) -> None:
    assert not compare("x", nan, nan, math.inf).ok


def test_compare_says_where() -> None:
    result = compare("x", {"a": [0, 1, 7], "b": 1}, {"a": [0, 2, 3], "b": 1}, 2)
    assert result == Result("x", 4, 2, ".a[2]")
    assert not result.ok


def _sampler_case() -> dict[str, Any]:
    """A case of kind `sampler` from our own code."""
    lengths = [(7 * i) % 65 + 1 for i in range(64)]

    def order(sign: int, count: int) -> list[int]:
        generator = torch.Generator().manual_seed(5)
        return length_grouped_order([sign * length for length in lengths[:count]], 4, 4, generator)

    return {
        "seed": 5,
        "lengths": lengths,
        "all_negative_batch4_world4": order(-1, 64),
        "all_positive_batch4_world4": order(1, 64),
        "all_negative_61_samples": order(-1, 61),
    }
