"""By how much cameras disagree about depth: on simulated takes, whose poses are known, right and spoilt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mmor import cli
from operating_room.doctor.calibration import CloudView, Disagreement, TakeCalibration, check_calibration
from operating_room.doctor.checkup import check
from operating_room.doctor.findings import Severity
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from operating_room_simulator.story.story import script_surgery
from operating_room_simulator.writer import named_takes, synthesize, write_takes
from tests.operating_room.cameras import camera_file
from tests.operating_room.tiny_dataset import picture, write
from tests.operating_room.tiny_house import write_house

RUN = CliRunner()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two seconds of 4D-OR with camera files and depth pictures."""
    surgery = script_surgery(mmor().find_take("002_4DOR"), 0, 40)
    write_takes(tmp_path, [replace(surgery, moments=surgery.moments[:2])], size=(96, 72), calibration=True)
    return tmp_path


def measured(root: Path) -> TakeCalibration:
    dataset = Dataset(root)
    (found,) = check_calibration(dataset, dataset.takes())
    return found


def camera_of(root: Path, number: int) -> Path:
    return root / "4D-OR_data/export_holistic_take2_processed" / f"camera0{number}.json"


def test_right_poses_agree_to_some_millimetres(root: Path) -> None:
    found = measured(root)
    assert not found.problems
    assert found.cameras == ("1", "2", "3", "4", "5", "6")
    assert len(found.pairs) == 6 * 5 + 6
    assert np.median([pair.median_mm for pair in found.pairs]) < 30  # a pixel is wide at this size
    assert all(pair.same > 0.3 for pair in found.pairs)
    assert all(view.fits and view.seen > 0.4 for view in found.cloud)


def test_a_camera_that_was_moved_is_found(root: Path) -> None:
    """By 8 cm: the pairs without it are as they were."""
    before = {(pair.of, pair.against): pair.median_mm for pair in measured(root).pairs}
    file = json.loads(camera_of(root, 2).read_text())
    file["value0"]["camera_pose"]["translation"]["m20"] += 0.08
    write(camera_of(root, 2), file)
    for pair in measured(root).pairs:
        if "2" in (pair.of, pair.against):
            assert pair.median_mm > before[pair.of, pair.against] + 10
        else:
            assert pair.median_mm == before[pair.of, pair.against]


def test_another_convention_of_axes_does_not_fit(root: Path) -> None:
    """As if the stored axes were those of OpenCV: turned by half about x."""
    for number in range(1, 7):
        file = json.loads(camera_of(root, number).read_text())
        turned = file["value0"]["camera_pose"]["rotation"]
        x, y, z, w = (turned[key] for key in "xyzw")
        file["value0"]["camera_pose"]["rotation"] = {"x": w, "y": z, "z": -y, "w": -x}
        write(camera_of(root, number), file)
    assert not any(view.fits for view in measured(root).cloud)


def test_what_cannot_be_measured_is_said(root: Path) -> None:
    for depth in (root / "4D-OR_data").rglob("*.tiff"):
        depth.unlink()
    found = measured(root)
    (problem,) = found.problems
    assert problem.startswith("no depth pictures, so that cameras cannot be compared in depth")
    assert all(view.fits for view in found.cloud)
    write(camera_of(root, 3), b"{}")
    assert "is no camera file" in measured(root).problems[0]
    for number in range(1, 7):
        camera_of(root, number).unlink()
    assert "there is no camera file" in measured(root).problems[0]


def test_a_broken_depth_picture_is_named(root: Path) -> None:
    broken = sorted((root / "4D-OR_data").rglob("*.tiff"))[0]
    write(broken, b"nothing")
    assert str(broken) in measured(root).problems[0]
    assert str(broken) in {str(finding.path) for finding in check(Dataset(root), ["002_4DOR"]).findings}


def test_the_command(root: Path) -> None:
    result = RUN.invoke(cli.app, ["data", "check", str(root), "--calibration"])
    assert result.exit_code == 0
    assert "median mm" in result.output
    (take,) = json.loads(RUN.invoke(cli.app, ["data", "check", str(root), "--calibration", "--json"]).output)
    assert take["take"] == "002_4DOR"
    assert len(take["depth"]) == 36


def test_what_has_no_number_is_null_in_json() -> None:
    """Two cameras that see nothing in common, and one that sees nothing of the cloud: JSON has no NaN."""
    nan = float("nan")
    pair, view = Disagreement("1", "2", 0, 0.0, nan, nan), CloudView("1", 0.0, nan, nan)
    found = TakeCalibration("001_4DOR", ("1", "2"), (pair,), (view,)).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["depth"][0]["median_mm"] is found["cloud"][0]["color"] is None


def test_takes_in_one_folder_have_no_camera_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shares the folder"):
        synthesize(tmp_path, named_takes(["012_1_PKA"]), 40, calibration=True)


def test_the_doctor_reads_camera_files(tmp_path: Path) -> None:
    """A take without any lacks nothing; one that is broken is told."""
    root = write_house(tmp_path / "kitchen")
    write(root / "takes/soup/depth/door/000000.png", picture("PNG", np.full((4, 6), 2000, np.uint16)))
    for place in ("calibration/door.json", "takes/soup/calibration/ceiling.json"):
        write(root / place, camera_file())
    assert not check(Dataset(root)).findings
    write(root / "takes/soup/calibration/door.json", b"{}")
    (finding,) = check(Dataset(root)).findings
    assert finding.severity is Severity.BROKEN
    assert "takes/soup/calibration/door.json: is no camera file" in finding.message


def test_a_camera_file_of_pictures_of_another_form_is_told(tmp_path: Path) -> None:
    """Exports and the page refuse it: how the pictures were cut cannot be told."""
    root = write_house(tmp_path / "kitchen")
    write(root / "calibration/door.json", camera_file(color_size=(1280, 720)))
    (finding,) = check(Dataset(root)).findings
    assert finding.severity is Severity.BROKEN
    assert "calibration/door.json: pictures of 64x48 px do not have the proportions" in finding.message
