"""Masks that leave for other tools: in the form of each, and in nobody's way."""

from __future__ import annotations

import gc
import io
import shutil
import zipfile
from pathlib import Path
from weakref import ref

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mmor import cli
from mmor.exports.coco_panoptic import export_coco_panoptic
from mmor.exports.cvat import export_cvat
from mmor.exports.fiftyone import export_fiftyone
from mmor.exports.frames import each_take, export_folder
from mmor.exports.masks_back import import_masks
from operating_room.errors import UserError
from operating_room.files.readers import read_ids, read_json, read_label_mask, read_picture
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.take import RecordedTake
from tests.mmor.exports.conftest import EXPORTS, masks_of, recorded
from tests.operating_room.tiny_dataset import MMOR_NAME, label_picture, picture, write, write_dataset
from tests.operating_room.tiny_house import write_house

RUN = CliRunner()


@pytest.mark.parametrize("kind", EXPORTS)
def test_a_picture_of_two_timepoints_goes_out_once(root: Path, tmp_path: Path, kind: str) -> None:
    """A camera that is slower than the others: the index names its picture twice."""
    index = root / "MM-OR_data" / MMOR_NAME / "timestamp_to_pcd_and_frames_list.json"
    elements = read_json(index)
    elements[2][1]["azure"] = elements[1][1]["azure"]
    write(index, elements)
    before = masks_of(recorded(root))
    target = EXPORTS[kind](recorded(root), tmp_path / "out")
    if kind == "cvat":
        names = zipfile.ZipFile(target / "annotations.zip").namelist()
        assert len(set(names)) == len(names)
    assert import_masks(recorded(root), target).unchanged == len(before) == 15


def test_coco_panoptic_is_as_its_format_says(root: Path, tmp_path: Path) -> None:
    target = export_coco_panoptic(recorded(root), tmp_path / "out", pictures=True)
    content = read_json(target / "panoptic.json")
    names = {row["id"]: row["name"] for row in content["categories"]}
    images = {row["id"]: row for row in content["images"]}
    assert len(images) == len(content["images"]) == len(content["annotations"]) == 18
    for annotation in content["annotations"]:
        ids = read_ids(target / "panoptic" / annotation["file_name"])
        image = images[annotation["image_id"]]
        copied = target / "images" / image["file_name"]
        assert read_picture(copied).shape[:2] == (image["height"], image["width"]) == ids.shape
        assert set(np.unique(ids).tolist()) - {0} == {segment["id"] for segment in annotation["segments_info"]}
        for segment in annotation["segments_info"]:
            rows, columns = np.nonzero(ids == segment["id"])
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert segment["bbox"] == box
            assert segment["area"] == len(rows)
            assert names[segment["category_id"]]


def test_cvat_gets_a_label_map_and_class_colours(root: Path, tmp_path: Path) -> None:
    target = export_cvat(recorded(root), tmp_path / "out", pictures=True)
    with zipfile.ZipFile(target / "annotations.zip") as archive, zipfile.ZipFile(target / "images.zip") as pictures:
        lines = archive.read("labelmap.txt").decode().splitlines()
        names = archive.read("ImageSets/Segmentation/default.txt").decode().split()
        assert {Path(name).with_suffix("").as_posix() for name in pictures.namelist()} == set(names)
        assert lines[:2] == ["# label:color_rgb:parts:actions", "background:0,0,0::"]
        assert "patient:255,0,0::" in lines
        for name in names:
            shown = Image.open(io.BytesIO(archive.read(f"SegmentationClass/{name}.png")))
            assert shown.mode == "RGB"
            objects = np.asarray(Image.open(io.BytesIO(archive.read(f"SegmentationObject/{name}.png"))))
            assert len(np.unique(objects.reshape(-1, 3), axis=0)) == len(
                np.unique(np.asarray(shown).reshape(-1, 3), axis=0)
            )
    assert len(names) == 18


def test_predictions_can_be_corrected(root: Path, tmp_path: Path) -> None:
    """Class-colour pictures of stage 1, of a video in parts, become label masks by way of CVAT."""
    stem = "camera01_colorimage-000100"
    colors = np.array([(0, 0, 0), (255, 0, 0)], np.uint8)[np.eye(48, 64, dtype=int)]
    write(tmp_path / "pan_pred" / f"{MMOR_NAME}_1_part0" / f"{stem}.png", picture("PNG", colors))
    target = export_cvat(recorded(root), tmp_path / "out", predictions=tmp_path / "pan_pred")
    import_masks(recorded(root), target, replace=True)
    mask = root / "MM-OR_data" / MMOR_NAME / "segmentation_export_1" / f"{stem}.png"
    assert (read_label_mask(mask) == 5 * np.eye(48, 64, dtype=int)).all()
    with pytest.raises(UserError, match="no such folder"):
        export_cvat(recorded(root), tmp_path / "out", predictions=tmp_path / "none")


@pytest.mark.parametrize("kind", EXPORTS)
def test_predictions_in_other_colours_are_no_background(root: Path, tmp_path: Path, kind: str) -> None:
    """The folder beside (numbers of objects) was taken: a mask that shows nothing went out to be corrected."""
    take = recorded(root)
    name = take.timepoints[0].views["1"].stem
    numbers = np.zeros((10, 20), np.uint8)
    numbers[2:5] = 1
    write(tmp_path / f"pan_instances/{MMOR_NAME}_1/{name}.png", picture("PNG", numbers))
    with pytest.raises(UserError, match=rf"{name}.png: has colours of no class of the domain; give the folder"):
        EXPORTS[kind](take, tmp_path / "out", predictions=tmp_path / "pan_instances")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("kind", EXPORTS)
def test_predictions_come_in_the_size_of_the_pictures(root: Path, tmp_path: Path, kind: str) -> None:
    """They have the size of the canvas; tools want masks as large as the pictures, and so does what comes back."""
    stem = "camera01_colorimage-000100"
    colors = np.array([(0, 0, 0), (255, 0, 0)], np.uint8)[np.eye(12, 16, dtype=int)]
    write(tmp_path / "pan_pred" / f"{MMOR_NAME}_1" / f"{stem}.png", picture("PNG", colors))
    target = EXPORTS[kind](recorded(root), tmp_path / "out", predictions=tmp_path / "pan_pred")
    import_masks(recorded(root), target, replace=True)
    mask = root / "MM-OR_data" / MMOR_NAME / "segmentation_export_1" / f"{stem}.png"
    assert (read_label_mask(mask) == 5 * np.eye(12, 16, dtype=int).repeat(4, 0).repeat(4, 1)).all()


@pytest.mark.parametrize("kind", EXPORTS)
@pytest.mark.parametrize("size", [24, 96])
def test_annotated_masks_of_another_size_go_out_in_that_of_the_pictures(
    root: Path, tmp_path: Path, kind: str, size: int
) -> None:
    """Masks may be larger or smaller than their pictures; tools want that size, and what came back was refused."""
    pixels = np.resize(np.array([0, 5, 10], np.uint8), (size, size * 4 // 3))
    for mask in masks_of(recorded(root)):
        write(mask, picture("PNG", pixels))
    before = masks_of(recorded(root))
    target = EXPORTS[kind](recorded(root), tmp_path / "out")
    done = import_masks(recorded(root), target)
    assert (done.unchanged, done.written, done.kept) == (len(before), (), ())
    assert masks_of(recorded(root)) == before
    corrected = sorted(before)[0]
    write(corrected, picture("PNG", np.full_like(pixels, 5)))  # of what is there now the tool has something else
    assert import_masks(recorded(root), target).kept == (corrected,)
    assert import_masks(recorded(root), target, replace=True).written == (corrected,)
    assert read_label_mask(corrected).shape == (48, 64)


def test_a_take_that_cannot_be_exported_costs_itself(root: Path, tmp_path: Path) -> None:
    broken = root / "MM-OR_data" / MMOR_NAME / "segmentation_export_1" / "camera01_colorimage-000101.png"
    write(broken, b"nothing")
    arguments = [MMOR_NAME, "001_4DOR", "--data", str(root), "--out", str(tmp_path / "out")]
    result = RUN.invoke(cli.app, ["export", "coco-panoptic", *arguments])
    assert result.exit_code == 1
    assert f"take {MMOR_NAME} is left out: {broken}" in result.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["001_4DOR"]


@pytest.mark.parametrize(
    "command", ["coco-panoptic --pictures", "cvat --pictures", "fiftyone", "fiftyone --pictures", "mcap", "rerun"]
)
def test_a_picture_that_is_cut_off_is_told(root: Path, tmp_path: Path, command: str) -> None:
    package = {"mcap": "mcap_protobuf", "rerun": "rerun"}.get(command)
    if package is not None:
        pytest.importorskip(package, reason="the extra is not installed")
    cut = root / "MM-OR_data" / MMOR_NAME / "colorimage" / "camera01_colorimage-000101.jpg"
    cut.write_bytes(cut.read_bytes()[:-20])
    arguments = [*command.split(), MMOR_NAME, "--data", str(root), "--out", str(tmp_path / "out")]
    result = RUN.invoke(cli.app, ["export", *arguments])
    assert result.exit_code == 1, result.output
    assert f"take {MMOR_NAME} is left out: {cut}" in result.output
    assert not list((tmp_path / "out").glob("*"))


def test_the_commands(root: Path, tmp_path: Path) -> None:
    assert (
        RUN.invoke(cli.app, ["export", "cvat", MMOR_NAME, "--data", str(root), "--out", str(tmp_path)]).exit_code == 0
    )
    mask = sorted(masks_of(recorded(root)))[0]
    write(mask, label_picture(3))
    arguments = ["import", "masks", str(tmp_path / MMOR_NAME), MMOR_NAME, "--data", str(root)]
    kept = RUN.invoke(cli.app, arguments)
    assert kept.exit_code == 1
    assert "give --replace" in kept.output
    assert "1 masks written, 17 were so already" in RUN.invoke(cli.app, [*arguments, "--replace"]).output


def test_objects_have_the_colours_of_pascal_voc(root: Path, tmp_path: Path) -> None:
    """The first ones of its list, as everybody has them: readers refuse others."""
    mask = sorted(masks_of(recorded(root)))[0]
    write(mask, label_picture(0, 1, 2, 3, 8))
    target = export_cvat(recorded(root), tmp_path / "out")
    with zipfile.ZipFile(target / "annotations.zip") as archive:
        name = next(name for name in archive.namelist() if "Object" in name and name.endswith(f"{mask.stem}.png"))
        objects = np.asarray(Image.open(io.BytesIO(archive.read(name))))
    assert objects[0, :5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [64, 0, 0]]


def test_by_way_of_datumaro(root: Path, tmp_path: Path) -> None:
    """What CVAT converts masks with reads the export, and what it writes comes back as the same labels."""
    datumaro = pytest.importorskip("datumaro", reason="Datumaro is not installed")
    before = masks_of(recorded(root))
    target = export_cvat(recorded(root), tmp_path / "out", pictures=True)
    shutil.unpack_archive(target / "annotations.zip", tmp_path / "voc")
    shutil.unpack_archive(target / "images.zip", tmp_path / "voc" / "JPEGImages")
    read = datumaro.Dataset.import_from(str(tmp_path / "voc"), "voc_segmentation")
    assert len(read) == len(before)
    read.export(str(tmp_path / "back"), "voc_segmentation", label_map="source", apply_colormap=True)
    done = import_masks(recorded(root), tmp_path / "back")
    assert (done.unchanged, done.kept) == (len(before), ())


@pytest.mark.parametrize("kind", EXPORTS)
def test_a_full_disk_is_told_before_anything_is_written(
    root: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(UserError, match="make room"):
        EXPORTS[kind](recorded(root), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FOLDERS = {**EXPORTS, "fiftyone": export_fiftyone}


@pytest.mark.parametrize("kind", FOLDERS)
def test_no_export_takes_the_place_of_a_recording(root: Path, tmp_path: Path, kind: str) -> None:
    """A take's own folder has the name that its export has."""
    room = write_house(tmp_path / "kitchen")
    write(room / "takes/soup/label_masks/door/000001.png", label_picture(3, 1))
    for data, take, out in ((root, MMOR_NAME, root / "MM-OR_data"), (room, "soup", room / "takes")):
        before = files(data)
        with pytest.raises(UserError, match=r"is there, and is not just what .* choose another --out"):
            FOLDERS[kind](recorded(data, take), out)
        assert files(data) == before


@pytest.mark.parametrize("kind", FOLDERS)
def test_only_an_export_of_the_same_kind_that_holds_nothing_else_is_replaced(
    root: Path, tmp_path: Path, kind: str
) -> None:
    export, out = FOLDERS[kind], tmp_path / "out"
    (out / MMOR_NAME).mkdir(parents=True)  # an empty one holds nothing
    target = export(recorded(root), out)
    first = set(files(target))
    assert export(recorded(root), out, pictures=True) == target
    assert first < set(files(target))
    for other in FOLDERS.keys() - {kind}:
        with pytest.raises(UserError, match="is not just what"):
            FOLDERS[other](recorded(root), out)
    corrected = write(target / "corrected.zip", b"hours of work")
    with pytest.raises(UserError, match="is not just what"):
        export(recorded(root), out)
    assert corrected.read_bytes() == b"hours of work"
    corrected.unlink()
    changed = next(path for path in sorted(target.rglob("*")) if path.suffix in (".png", ".zip"))
    write(changed, changed.read_bytes() + b"corrected")
    with pytest.raises(UserError, match="is not just what"):
        export(recorded(root), out)
    assert changed.read_bytes().endswith(b"corrected")


def test_what_comes_while_an_export_is_written_stays(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / MMOR_NAME

    def export() -> None:
        with export_folder(target, "cvat") as folder:
            write(folder / "annotations.zip", b"archive")
            write(target / "corrected.zip", b"hours of work")

    with pytest.raises(UserError, match="is not just what"):
        export()
    assert files(tmp_path / "out") == {f"{MMOR_NAME}/corrected.zip": b"hours of work"}


def test_names_in_an_archive_stay_in_its_folder(root: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("labelmap.txt", "background:0,0,0::")
        archive.writestr("SegmentationClass/../../outside.png", label_picture(0))
    with pytest.raises(UserError):
        import_masks(recorded(root), tmp_path / "evil.zip")
    assert not list(tmp_path.rglob("outside.png"))


def test_a_take_that_was_exported_is_let_go(tmp_path: Path) -> None:
    """All timepoints of all takes stayed until the last one was exported: of MM-OR 0.7 GB."""
    write_dataset(tmp_path)
    dataset, seen = Dataset(tmp_path), list[ref[RecordedTake]]()

    def export(recorded: RecordedTake) -> Path:
        assert recorded.timepoints
        assert [one for one in seen if one() is not None] == []
        seen.append(ref(recorded))
        return tmp_path

    takes = dataset.takes()
    assert each_take(dataset, takes, export, lambda _: gc.collect()) == []
    assert len(seen) == len(takes) > 1
