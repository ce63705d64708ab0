"""Whether all of a take fits together: axes, numbers, graphs; each mistake is one line with file and path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("h5py", reason="h5py is not installed (extra egoexor)")

import h5py
import numpy as np

from operating_room.importers.egoexor.hdf5 import BadRecording
from operating_room.importers.egoexor.source import StoredTake, Tables
from operating_room.importers.egoexor.takes import NO_NUMBER, Facts, inspect_take
from tests.operating_room.importers.tiny_egoexor import GRAPH, SIZE, TEXT, TinyTake, tiny_take, write_legacy

PUBLISHED = Tables()


def inspect(tmp_path: Path, take: TinyTake, tables: Tables = PUBLISHED) -> Facts:
    """Write a take and look at it."""
    path = write_legacy(tmp_path / "take.h5", [take])
    group = f"/data/{take.surgery}/{take.procedure}/take/{take.number}"
    return inspect_take(StoredTake(path, group, "legacy", take.name), tables)


def refused(tmp_path: Path, take: TinyTake, **tables: Tables) -> str:
    """What is wrong with a take, without the file."""
    with pytest.raises(BadRecording) as error:
        inspect(tmp_path, take, **tables)
    told = str(error.value)
    assert "\n" not in told
    start = f"{tmp_path / 'take.h5'}:/data/{take.surgery}/{take.procedure}/take/{take.number}/"
    assert told.startswith(start)
    return told.removeprefix(start)


def test_facts_of_a_whole_take(tmp_path: Path) -> None:
    """Section 2."""
    found = inspect(tmp_path, take := tiny_take("MISS", 2, 3, frames=6))
    assert found.cameras == tuple(take.cameras)
    assert (found.frames, found.size) == (6, (SIZE, SIZE))
    assert found.sound_s == pytest.approx(6 / 15)
    assert found.rows == {"gaze": (1, 2, 3, 4), "hands": (1, 2, 3, 4)}
    assert (found.annotated, found.triplets) == (2, 4)
    assert found.graph_orders == ("subject, predicate, object",)
    assert found.words[1] == {"lyingon", "closeto", "looking"}
    assert not found.others


def test_only_pictures_are_needed(tmp_path: Path) -> None:
    """Sections 2 and 2.1: sound is optional, Ultrasound has no clouds, frames may have no graph."""
    take = tiny_take()
    take.arrays = {"frames/rgb": take.arrays["frames/rgb"]}
    take.graphs = {}
    found = inspect(tmp_path, take)
    assert list(found.shapes) == ["rgb"]
    assert (found.sound_s, found.colors_to, found.gaze_to, found.annotated) == (None, None, None, 0)


def test_empty_axes_are_missing_modalities(tmp_path: Path) -> None:
    take = tiny_take(frames=3)
    take.arrays["eye_gaze/coordinates"] = np.zeros((3, 0, 3), np.float32)
    take.arrays["eye_gaze_depth/values"] = np.zeros((3, 0), np.float32)
    assert "gaze" not in inspect(tmp_path, take).shapes


def test_rows_of_the_fixed_glasses_and_without_number(tmp_path: Path) -> None:
    """Section 2: or_light (5) and microscope (6) are glasses, too; a number may be NaN; E need not be the staff."""
    take = tiny_take(frames=2)
    gaze, hands = take.arrays["eye_gaze/coordinates"], take.arrays["hand_tracking/positions"]
    assert gaze is not None
    assert hands is not None
    gaze[..., 0] = [5, 6, 2]
    take.arrays["hand_tracking/positions"] = hands = hands[:, :2]
    hands[..., 0] = [1, np.nan]
    found = inspect(tmp_path, take)
    assert found.rows == {"gaze": (2, 5, 6), "hands": (NO_NUMBER, 1)}


@pytest.mark.parametrize("scale", [1, 255])
def test_colours_by_the_largest_of_the_take(tmp_path: Path, scale: int) -> None:
    """Section 2: the README says 0-1, a comment of the code 0-255; a dark beginning decides nothing."""
    take = tiny_take("MISS", frames=5)
    colors = take.arrays["point_cloud/colors"]
    assert colors is not None
    colors[:3] = 0
    colors[3:] = np.linspace(0, scale, colors[3:].size).reshape(colors[3:].shape)
    assert inspect(tmp_path, take).colors_to == scale


def test_both_orders_of_numbers(tmp_path: Path) -> None:
    """Section 2: that scene_graph has the order of rel_annotations is only assumed."""
    path = write_legacy(tmp_path / "a.h5", [tiny_take()])
    with h5py.File(path, "a") as file:
        for frame in file["data/Ultrasound/1/take/1/annotations"].values():
            ids = frame["scene_graph"][()]
            del frame["scene_graph"]
            frame["scene_graph"] = ids[:, [0, 2, 1]]
    found = inspect_take(StoredTake(path, "/data/Ultrasound/1/take/1", "legacy", "Ultrasound_1_1"), Tables())
    assert found.graph_orders == ("subject, object, predicate",)


def test_predicate_of_several_parts(tmp_path: Path) -> None:
    """Section 2: of a row with more than three parts all middle ones, with blanks, are the predicate."""
    path = write_legacy(tmp_path / "a.h5", [take := tiny_take()])
    place = "data/Ultrasound/1/take/1/annotations/frame_1/rel_annotations"
    with h5py.File(path, "a") as file:
        for frame in take.graphs:
            del file[f"data/Ultrasound/1/take/1/annotations/frame_{frame}"]
        file.create_dataset(place, data=np.array([["patient", "lying", "on", "operating_table"]], object), dtype=TEXT)
    found = inspect_take(StoredTake(path, "/data/Ultrasound/1/take/1", "legacy", "Ultrasound_1_1"), PUBLISHED)
    assert found.words == ({"patient", "operating_table"}, {"lyingon"})


def test_arrays_that_nobody_knows_are_listed(tmp_path: Path) -> None:
    """Section 11, point 10: names and types of depth and audio of the second release are not published."""
    take = tiny_take(frames=2)
    take.arrays["depth/external_1/values"] = np.zeros((2, 4, 4), np.uint16)
    assert inspect(tmp_path, take).others == ("depth/external_1/values [2, 4, 4] of uint16",)


def change(name: str, make: Callable[[np.ndarray], np.ndarray | None]) -> Callable[[TinyTake], None]:
    """Put something else in the place of an array."""

    def apply(take: TinyTake) -> None:
        values = take.arrays[name]
        assert values is not None
        take.arrays[name] = make(values)

    return apply


def with_value(name: str, index: tuple[int, ...], value: float) -> Callable[[TinyTake], None]:
    """Put another number into an array."""

    def make(values: np.ndarray) -> np.ndarray:
        values[index] = value
        return values

    return change(name, make)


RGB, GAZE, DEPTH = "frames/rgb", "eye_gaze/coordinates", "eye_gaze_depth/values"
HANDS, CLOUD, COLORS = "hand_tracking/positions", "point_cloud/coordinates", "point_cloud/colors"


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (change(RGB, lambda a: None), "frames/rgb: is missing or empty"),
        (change(RGB, lambda a: a[:0]), "frames/rgb: is missing or empty"),
        (change(RGB, lambda a: a[:, :9]), "frames/rgb: is [5, 9, 32, 32, 3] of uint8: 9 cameras, source_count has 10"),
        (change(RGB, lambda a: a[..., :1]), "frames/rgb: is [5, 10, 32, 32, 1] of uint8: 1 numbers, the format has 3"),
        (
            change(RGB, lambda a: a[0]),
            "frames/rgb: is [10, 32, 32, 3] of uint8, expected [frames, cameras, rows of pix",
        ),
        (change(RGB, lambda a: a.astype(np.uint16)), "frames/rgb: is [5, 10, 32, 32, 3] of uint16, expected [frames, "),
        (change(RGB, lambda a: a / 255), "frames/rgb: is [5, 10, 32, 32, 3] of float64, expected"),
        (change(GAZE, lambda a: a[:4]), "eye_gaze/coordinates: is [4, 4, 3] of float32: 4 frames, frames/rgb has 5"),
        (
            change(GAZE, lambda a: a.astype(np.int32)),
            "eye_gaze/coordinates: is [5, 4, 3] of int32, expected [frames, ga",
        ),
        (change(GAZE, lambda a: None), "eye_gaze_depth/values: is there without eye_gaze/coordinates"),
        (change(DEPTH, lambda a: a[:, :3]), "eye_gaze_depth/values: is [5, 3] of float32: 3 gaze rows, eye_gaze/coord"),
        (
            change(HANDS, lambda a: a[..., :16]),
            "hand_tracking/positions: is [5, 4, 16] of float32: 16 numbers, the form",
        ),
        (
            change(HANDS, lambda a: a[:3]),
            "hand_tracking/positions: is [3, 4, 17] of float32: 3 frames, frames/rgb has 5",
        ),
        (change(CLOUD, lambda a: None), "point_cloud/colors: is there without point_cloud/coordinates"),
        (change(COLORS, lambda a: None), "point_cloud/coordinates: is there without point_cloud/colors"),
        (change(COLORS, lambda a: a[:, :6]), "point_cloud/colors: is [5, 6, 3] of float32: 6 points, point_cloud/coor"),
        (
            change("audio/snippets", lambda a: a[:, :8000]),
            "audio/snippets: is [5, 8000, 2] of float32: 8000 numbers, the",
        ),
        (change("audio/waveform", lambda a: a[:, 0]), "audio/waveform: is [16000] of float32, expected [samples, 2]"),
        (with_value(GAZE, (3, 1, 1), np.inf), "eye_gaze/coordinates: has infinity in frame 3"),
        (with_value(DEPTH, (2, 0), -np.inf), "eye_gaze_depth/values: has infinity in frame 2"),
        (with_value(HANDS, (4, 0, 9), np.inf), "hand_tracking/positions: has infinity in frame 4"),
        (with_value(GAZE, (0, 1, 0), 42), "eye_gaze/coordinates: has rows of source 42, which is in no table"),
        (with_value(HANDS, (0, 1, 0), 1.5), "hand_tracking/positions: has rows of source 1.5, which is in no table"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, break_it: Callable[[TinyTake], None], told: str) -> None:
    take = tiny_take("MISS")
    break_it(take)
    assert refused(tmp_path, take).startswith(told)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (("patient", "lyingOn", "sofa"), "'sofa' is no entity of the vocabulary (patient, lyingOn, sofa)"),
        (("lyingOn", "lyingOn", "patient"), "'lyingOn' is no entity"),
        (("closeto", "lyingOn", "patient"), "'closeto' is no entity"),
        (("patient", "operating_table", "lyingOn"), "'operating_table' is no predicate"),
        (("patient", "", "operating_table"), "'' is no predicate"),
    ],
)
def test_unknown_words(tmp_path: Path, row: tuple[str, str, str], told: str) -> None:
    path = write_legacy(tmp_path / "a.h5", [tiny_take()])
    place = "data/Ultrasound/1/take/1/annotations/frame_2/rel_annotations"
    with h5py.File(path, "a") as file:
        file.create_dataset(place, data=np.array([row], object), dtype=TEXT)
    with pytest.raises(BadRecording) as error:
        inspect_take(StoredTake(path, "/data/Ultrasound/1/take/1", "legacy", "Ultrasound_1_1"), Tables())
    assert str(error.value).startswith(f"{path}:/{place}: {told}")


@pytest.mark.parametrize("group", ["frame_5", "frame_01", "frame_", "picture_1"])
def test_annotation_of_no_frame(tmp_path: Path, group: str) -> None:
    """Section 2: frames are counted from 0, without leading zeros."""
    path = write_legacy(tmp_path / "a.h5", [tiny_take(frames=5)])
    with h5py.File(path, "a") as file:
        annotations = file["data/Ultrasound/1/take/1/annotations"]
        annotations.move("frame_4", group)
    with pytest.raises(BadRecording, match=f"annotations/{group}: is none of the frames 0 to 4"):
        inspect_take(StoredTake(path, "/data/Ultrasound/1/take/1", "legacy", "Ultrasound_1_1"), Tables())


def test_numbers_that_disagree_with_the_words(tmp_path: Path) -> None:
    take = tiny_take()
    entities = dict(Tables().entities)
    entities[25], entities[26] = entities[26], entities[25]  # patient and scalpel
    told = refused(tmp_path, take, tables=Tables(entities=entities))
    assert told == (
        "annotations/frame_0/scene_graph: 25, 15, 24 is not patient, lyingOn, operation_table, which rel_annotations "
        "says; the numbers belong to another vocabulary"
    )


def test_infinity_among_the_numbers_costs_its_take(tmp_path: Path) -> None:
    """It was an OverflowError, which ended the import of all takes."""
    path = write_legacy(tmp_path / "a.h5", [tiny_take()])
    with h5py.File(path, "a") as file:
        file["data/Ultrasound/1/take/1/annotations/frame_0/scene_graph"][1, 2] = np.inf
    with pytest.raises(BadRecording, match=r"scene_graph: .*None is not anaesthetist, closeTo, operating_table"):
        inspect_take(StoredTake(path, "/data/Ultrasound/1/take/1", "legacy", "Ultrasound_1_1"), Tables())


def test_numbers_without_partner(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "a.h5", [tiny_take()])
    with h5py.File(path, "a") as file:
        frame = file["data/Ultrasound/1/take/1/annotations/frame_0"]
        del frame["scene_graph"]
        frame["scene_graph"] = np.zeros((len(GRAPH) - 1, 3), np.float32)
    with pytest.raises(BadRecording, match=r"is \[2, 3\] of float32, expected three numbers for each of 3 triplets"):
        inspect_take(StoredTake(path, "/data/Ultrasound/1/take/1", "legacy", "Ultrasound_1_1"), Tables())


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (np.zeros((2, 3)), r"is \[2, 3\] of float64, expected rows of three strings"),
        (np.array([[b"patient", b"lyingOn"]]), "expected rows of three strings"),
        (np.array([[b"a"] * 11]), "expected rows of three strings"),
        (np.array([[b"\xff\xfe", b"lyingOn", b"patient"]]), "is no text"),
    ],
)
def test_annotations_that_are_no_text(tmp_path: Path, data: np.ndarray, told: str) -> None:
    path = write_legacy(tmp_path / "a.h5", [tiny_take()])
    with h5py.File(path, "a") as file:
        file["data/Ultrasound/1/take/1/annotations/frame_1/rel_annotations"] = data
    with pytest.raises(BadRecording, match=f"frame_1/rel_annotations: .*{told}"):
        inspect_take(StoredTake(path, "/data/Ultrasound/1/take/1", "legacy", "Ultrasound_1_1"), Tables())


def test_rows_of_gigabytes_that_the_file_does_not_hold(tmp_path: Path) -> None:
    take = tiny_take()
    take.arrays |= {GAZE: None, DEPTH: None}
    path = write_legacy(tmp_path / "a.h5", [take])
    with h5py.File(path, "a") as file:
        shape = (take.frames, 20_000_000, 3)
        file["data/Ultrasound/1/take/1"].create_dataset(GAZE, shape, np.float32, chunks=(1, 100_000, 3))
    with pytest.raises(
        BadRecording, match=r"eye_gaze/coordinates: is \[5, 20000000, 3\] of float32: 240 MB in one row"
    ):
        inspect_take(StoredTake(path, "/data/Ultrasound/1/take/1", "legacy", "Ultrasound_1_1"), Tables())


def test_values_in_other_files_are_not_read(tmp_path: Path) -> None:
    """Arrays may name any file of this machine for their values; no published one does."""
    (tmp_path / "passwords").write_bytes(bytes(60))
    take = tiny_take(frames=5)
    take.arrays["eye_gaze_depth/values"] = None
    path = write_legacy(tmp_path / "take.h5", [take])
    with h5py.File(path, "a") as file:
        group = file["data/Ultrasound/1/take/1"]
        outside = [(str(tmp_path / "passwords"), 0, 60)]
        group.create_dataset("eye_gaze_depth/values", (5, 3), np.float32, external=outside)
    stored = StoredTake(path, "/data/Ultrasound/1/take/1", "legacy", "Ultrasound_1_1")
    with pytest.raises(BadRecording, match=r"eye_gaze_depth/values: keeps its values in other files"):
        inspect_take(stored, Tables())
    with h5py.File(path, "a") as file:
        del file["data/Ultrasound/1/take/1/eye_gaze_depth"]
        layout = h5py.VirtualLayout((5, 3), np.float32)
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", (5, 3))
        file["data/Ultrasound/1/take/1"].create_virtual_dataset("eye_gaze_depth/values", layout)
    with pytest.raises(BadRecording, match=r"eye_gaze_depth/values: keeps its values in other files"):
        inspect_take(stored, Tables())
