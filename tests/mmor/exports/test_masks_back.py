"""Masks that come back from other tools: the same labels, or a line that says what does not fit."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmor.exports.coco_panoptic import export_coco_panoptic
from mmor.exports.cvat import export_cvat
from mmor.exports.masks_back import import_masks
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.readers import read_json, read_label_mask
from tests.mmor.exports.conftest import EXPORTS, masks_of, recorded
from tests.operating_room.tiny_dataset import MMOR_NAME, label_picture, picture, write
from tests.operating_room.tiny_house import DOMAIN, write_house


@pytest.mark.parametrize("kind", EXPORTS)
def test_masks_come_back_bit_for_bit(root: Path, tmp_path: Path, kind: str) -> None:
    before = masks_of(recorded(root))
    target = EXPORTS[kind](recorded(root), tmp_path / "out")
    assert target == tmp_path / "out" / MMOR_NAME
    for mask in before:
        mask.unlink()
    done = import_masks(recorded(root), target)
    assert set(done.written) == set(before)
    assert masks_of(recorded(root)) == before
    again = import_masks(recorded(root), target)
    assert (len(again.written), again.unchanged, len(again.kept)) == (0, len(before), 0)


@pytest.mark.parametrize("kind", EXPORTS)
def test_a_damaged_mask_is_replaced_where_that_is_asked_for(root: Path, tmp_path: Path, kind: str) -> None:
    """It could not be compared with what came back, and so stayed: --replace told to copy it from the archive."""
    before = masks_of(recorded(root))
    export = EXPORTS[kind](recorded(root), tmp_path / "out")
    cut, other = sorted(before)[:2]
    cut.write_bytes(cut.read_bytes()[:60])
    other.write_bytes(b"no picture")
    with pytest.raises(UserError, match="is not a readable JPEG or PNG picture"):
        import_masks(recorded(root), export)
    assert set(import_masks(recorded(root), export, replace=True).written) == {cut, other}
    assert masks_of(recorded(root)) == before


@pytest.mark.parametrize("kind", EXPORTS)
def test_annotated_masks_are_kept_unless_they_are_to_be_replaced(root: Path, tmp_path: Path, kind: str) -> None:
    before = masks_of(recorded(root))
    target = EXPORTS[kind](recorded(root), tmp_path / "out")
    changed = sorted(before)[0]
    write(changed, label_picture(3))
    done = import_masks(recorded(root), target)
    assert done.kept == (changed,)
    assert not done.written
    assert (read_label_mask(changed) == 3).all()
    assert import_masks(recorded(root), target, replace=True).written == (changed,)
    assert masks_of(recorded(root)) == before


def gone_out_and_back(root: Path, out: Path, kind: str) -> Path:
    """A kitchen's masks, exported, removed and imported again; where they were exported to."""
    write(root / "takes/soup/label_masks/door/000001.png", label_picture(3, 1))
    before = masks_of(recorded(root, "soup"))
    target = EXPORTS[kind](recorded(root, "soup"), out)
    shutil.rmtree(root / "takes/soup/label_masks")
    import_masks(recorded(root, "soup"), target)
    assert masks_of(recorded(root, "soup")) == before
    return target


@pytest.mark.parametrize("kind", EXPORTS)
def test_a_room_of_ones_own(tmp_path: Path, kind: str) -> None:
    """Pictures of two cameras have one name in the house layout."""
    root = write_house(tmp_path / "kitchen")
    target = gone_out_and_back(root, tmp_path / "out", kind)
    with pytest.raises(UserError, match="is of soup, not of stew"):
        import_masks(recorded(root, "stew"), target)


@pytest.mark.parametrize("other", ["036_PKA", "099_OWN"])
def test_pictures_that_lie_in_the_folder_of_another_take_are_not_of_this_one(
    root: Path, tmp_path: Path, other: str
) -> None:
    """Takes have pictures of the same names: without a camera above them, masks of another take were taken for its."""
    (root / "MM-OR_data" / "099_OWN").mkdir()
    target = export_cvat(recorded(root), tmp_path / "out")
    with zipfile.ZipFile(target / "annotations.zip") as archive:
        archive.extractall(target)
    (target / "annotations.zip").unlink()
    classes = target / "SegmentationClass"
    files = sorted(classes.rglob("*.png"))
    for folder, right in ((other, False), (MMOR_NAME, True), ("corrected", True)):
        files = [file.rename(write(classes / folder / "to" / file.name, b"")) for file in files]
        if right:
            assert import_masks(recorded(root), target).unchanged == len(files)
        else:
            with pytest.raises(UserError, match=f"is of {other}, not of {MMOR_NAME}"):
                import_masks(recorded(root), target)


@pytest.mark.parametrize("kind", EXPORTS)
def test_names_that_went_by_way_of_macos(tmp_path: Path, kind: str) -> None:
    """It stores letters and marks apart: masks lay in a folder of their camera, and were to be put there."""
    root = write_house(tmp_path / "kitchen")
    write(root / "domain.yaml", DOMAIN.replace("ceiling", "T\u00fcr"))
    for kept in ("views", "label_masks"):
        (root / "takes/soup" / kept / "ceiling").rename(root / "takes/soup" / kept / "T\u00fcr")
    target = EXPORTS[kind](recorded(root, "soup"), tmp_path / "out")
    if kind == "cvat":
        with zipfile.ZipFile(target / "annotations.zip") as archive:
            archive.extractall(target)
        (target / "annotations.zip").unlink()
    for folder in [path for path in target.rglob("T\u00fcr") if path.is_dir()]:
        folder.rename(folder.with_name("Tu\u0308r"))
    for file in target.rglob("panoptic.json"):
        file.write_text(file.read_text("utf-8").replace("T\u00fcr", "Tu\u0308r").replace("T\\u00fcr", "Tu\\u0308r"))
    assert import_masks(recorded(root, "soup"), target).unchanged == 4


@pytest.mark.parametrize("kind", EXPORTS)
def test_a_class_that_is_called_background_and_is_not_the_first_comes_back(tmp_path: Path, kind: str) -> None:
    """Walls and floor of a room whose first category, what nobody has labelled, has another name: all were erased."""
    root = write_house(tmp_path / "kitchen")
    names = {"name: background": "name: unlabelled", "{name: stove": "{name: background"}
    write(root / "domain.yaml", reduce(lambda text, pair: text.replace(*pair), names.items(), DOMAIN))
    gone_out_and_back(root, tmp_path / "out", kind)


@pytest.mark.parametrize("where", ["categories", "images", "annotations"])
def test_an_id_that_stands_for_two_things_is_refused(root: Path, tmp_path: Path, where: str) -> None:
    """One of them would be lost, and its pixels be the other."""
    target = export_coco_panoptic(recorded(root), tmp_path / "out")
    content = read_json(target / "panoptic.json")
    rows = content[where] if where != "annotations" else content[where][0]["segments_info"]
    rows[1]["id"] = rows[0]["id"]
    write(target / "panoptic.json", content)
    before = masks_of(recorded(root))
    with pytest.raises(UserError, match=r"the id \d+ stands for .* and for .*; give each its own"):
        import_masks(recorded(root), target, replace=True)
    assert masks_of(recorded(root)) == before


def test_what_cvat_exports_with_a_palette_is_read(root: Path, tmp_path: Path) -> None:
    """Its pictures may have a palette, and lie in a folder without those of take and camera."""
    take = recorded(root)
    mask = sorted(masks_of(take))[0]
    before = read_label_mask(mask)
    colors = {category.label: category.color for category in mmor().labels.categories}
    with zipfile.ZipFile(tmp_path / "back.zip", "w") as archive:
        shown = np.array([colors.get(label, (0, 0, 0)) for label in range(256)], np.uint8)[before]
        buffer = io.BytesIO()
        Image.fromarray(shown).convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(buffer, "PNG")
        archive.writestr(f"SegmentationClass/{mask.stem}.png", buffer.getvalue())
        lines = [f"{c.name}:{c.color[0]},{c.color[1]},{c.color[2]}::" for c in mmor().labels.categories]
        archive.writestr("labelmap.txt", "\n".join(lines).replace("__background__", "background"))
    import_masks(take, tmp_path / "back.zip", replace=True)
    after = read_label_mask(mask)
    assert (after == np.where(np.isin(before, list(mmor().labels.mistakes)), 0, before)).all()


def spoil_json(change: Callable[[dict], None]) -> Callable[[Path], None]:
    """Change the JSON file of an export."""

    def spoil(target: Path) -> None:
        content = json.loads((target / "panoptic.json").read_text())
        change(content)
        write(target / "panoptic.json", content)

    return spoil


def first_png(target: Path) -> Path:
    """The first mask of an export."""
    return sorted(target.rglob("panoptic/**/*.png"))[0]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_json(lambda content: content["categories"][0].update(name="nurze")), "has the class 'nurze'"),
        (spoil_json(lambda content: content["annotations"][0]["segments_info"].pop()), "no segment of it has"),
        (
            spoil_json(lambda content: content["annotations"][0].update(file_name="../../x.png")),
            "outside of its folder",
        ),
        (spoil_json(lambda content: content["images"][0].update(file_name="001_PKA/1/other.jpg")), "has no picture"),
        (spoil_json(lambda content: content["images"][0].update(file_name="002_PKA/1/a.jpg")), "is of 002_PKA"),
        (spoil_json(lambda content: content["annotations"].append(content["annotations"][0])), "remove one"),
        (spoil_json(lambda content: content.pop("images")), "is no COCO panoptic file"),
        (lambda target: write(first_png(target), picture("PNG", np.zeros((24, 32, 3), np.uint8))), "is 32x24 px"),
        (lambda target: write(first_png(target), b"nothing"), "not a readable"),
        (lambda target: (target / "panoptic.json").unlink(), "is no folder with"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(
    root: Path, tmp_path: Path, spoil: Callable[[Path], object], told: str
) -> None:
    before = masks_of(recorded(root))
    target = export_coco_panoptic(recorded(root), tmp_path / "out")
    for mask in sorted(before)[1:]:
        write(mask, label_picture(3))
    now = masks_of(recorded(root))
    spoil(target)
    with pytest.raises(UserError, match=told):
        import_masks(recorded(root), target, replace=True)
    assert masks_of(recorded(root)) == now


def test_unknown_colours_and_archives_that_are_none(root: Path, tmp_path: Path) -> None:
    target = export_cvat(recorded(root), tmp_path / "out")
    shutil.unpack_archive(target / "annotations.zip", tmp_path / "open")
    lines = (tmp_path / "open/labelmap.txt").read_text().splitlines()
    write(tmp_path / "open/labelmap.txt", "\n".join(line for line in lines if not line.startswith("patient")))
    with pytest.raises(UserError, match=r"has the colour 255,0,0, that labelmap\.txt does not name"):
        import_masks(recorded(root), tmp_path / "open")
    write(tmp_path / "open/labelmap.txt", "patient:red::")
    with pytest.raises(UserError, match="line 1 is not"):
        import_masks(recorded(root), tmp_path / "open")
    with pytest.raises(UserError, match="no readable archive"):
        import_masks(recorded(root), write(tmp_path / "x.zip", b"nothing"))


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_inside_an_archive_is_one_line(root: Path, tmp_path: Path, packing: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", packing) as archive:
        archive.writestr("labelmap.txt", "a line of a label map\n" * 50)
    whole = (tmp_path / "x.zip").read_bytes()
    start = 30 + len("labelmap.txt")  # behind the header of the entry
    for place in range(start, start + 30):
        broken = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        with pytest.raises(UserError, match=r"no readable archive|labelmap\.txt|holds no mask"):
            import_masks(recorded(root), write(tmp_path / "broken.zip", broken))


def test_what_does_not_fit_is_named_as_the_archive_has_it(root: Path, tmp_path: Path) -> None:
    name = f"{MMOR_NAME}/1/camera01_colorimage-000100.png"
    with zipfile.ZipFile(tmp_path / "back.zip", "w") as archive:
        archive.writestr("labelmap.txt", "background:0,0,0::")
        archive.writestr(f"SegmentationClass/{name}", picture("PNG", np.zeros((24, 32, 3), np.uint8)))
    with pytest.raises(UserError, match=rf"^{tmp_path}/back\.zip/SegmentationClass/{name}: is 32x24 px"):
        import_masks(recorded(root), tmp_path / "back.zip")
    with pytest.raises(UserError, match=r"none\.zip: no such file"):
        import_masks(recorded(root), tmp_path / "none.zip")
