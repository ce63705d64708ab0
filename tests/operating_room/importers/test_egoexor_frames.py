"""What an import writes: pictures, gaze, hands, clouds, sound, graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("h5py", reason="h5py is not installed (extra egoexor)")

import numpy as np
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from operating_room.domain.domain import Domain
from operating_room.files.picture_files import read_picture
from operating_room.importers.egoexor.frames import correct_gaze
from operating_room.importers.egoexor.importing import ImportReport, import_egoexor
from operating_room.importers.egoexor.tables import SOURCES
from tests.operating_room.importers.tiny_egoexor import MISS, TinyTake, tiny_take, write_hq, write_legacy


def imported(tmp_path: Path, take: TinyTake, **options: Any) -> Path:
    """The folder of the take after its import."""
    report = run(tmp_path, take, **options)
    assert not report.problems
    return tmp_path / "out" / "takes" / take.name


def run(tmp_path: Path, take: TinyTake, **options: Any) -> ImportReport:
    """Write a take and import it; pictures without loss."""
    return import_egoexor(write_legacy(tmp_path / "take.h5", [take]), tmp_path / "out", pictures="png", **options)


def of(take: TinyTake, name: str) -> np.ndarray:
    """An array of a take."""
    values = take.arrays[name]
    assert values is not None
    return values


BGR = ("assistant", "head_surgeon", "circulator", "anesthetist", "microscope")


@pytest.mark.parametrize(
    ("colours", "turned"),
    [
        ("true_rgb", {*BGR, "or_light", "simstation", "ultrasound"}),
        ("as_trained", {"assistant", "head_surgeon", "circulator", "anesthetist", "simstation", "ultrasound"}),
        ("as_evaluated", {*MISS, "or_light", "simstation", "ultrasound"}),
    ],
)
def test_order_of_channels(tmp_path: Path, colours: Any, turned: set[str]) -> None:
    """Section 4: exterior cameras are stored as RGB, all others as BGR; training and evaluation turned others."""
    take = tiny_take("MISS", frames=2)
    extra = tiny_take("Ultrasound", frames=2)
    extra.cameras = ("or_light", "simstation", "ultrasound", "assistant", "external_5")
    for each in (take, extra):
        (tmp_path / each.surgery).mkdir()
        folder = imported(tmp_path / each.surgery, each, colours=colours)
        for place, camera in enumerate(each.cameras):
            stored = of(each, "frames/rgb")[1, place]
            expected = stored[..., ::-1] if camera in turned else stored
            np.testing.assert_array_equal(read_picture(folder / "views" / camera / "000001.png"), expected)


def test_pictures_go_to_the_cameras_of_the_take(tmp_path: Path) -> None:
    """Section 2: the order of cameras differs from take to take, even of one procedure; blank is no camera."""
    first, second = tiny_take("MISS", 1, 1, frames=2), tiny_take("MISS", 1, 2, frames=2)
    second.cameras = ("external_3", "blank", *(name for name in MISS if name not in ("external_3", "external_4")))
    path = write_legacy(tmp_path / "a.h5", [first, second])
    assert not import_egoexor(path, tmp_path / "out", pictures="png").problems
    views = tmp_path / "out" / "takes" / "MISS_1_2" / "views"
    assert sorted(folder.name for folder in views.iterdir()) == sorted(set(second.cameras) - {"blank"})
    np.testing.assert_array_equal(read_picture(views / "external_3" / "000000.png"), of(second, "frames/rgb")[0, 0])


def test_black_frames_are_missing_views(tmp_path: Path) -> None:
    """Section 2: a missing view is all zeros, of every kind of camera; one grey pixel is a picture."""
    take = tiny_take(frames=3)
    rgb = of(take, "frames/rgb")
    rgb[0, 0] = rgb[2, 3] = rgb[1] = 0
    rgb[1, 4, 5, 6, 1] = 1
    report = run(tmp_path, take)
    views = tmp_path / "out" / "takes" / take.name / "views"
    found = {f"{path.parent.name} {path.stem}" for path in views.glob("*/*.png")}
    missing = {"assistant 000000", "or_light 000002", *(f"{camera} 000001" for camera in take.cameras[:4])}
    assert found == {f"{camera} {frame:06d}" for camera in take.cameras for frame in range(3)} - missing
    assert report.imported[take.name]["black"] == len(missing)


def test_jpeg_is_near_the_stored_picture(tmp_path: Path) -> None:
    take = tiny_take(frames=1)
    smooth = np.linspace(20, 200, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    of(take, "frames/rgb")[:] = smooth
    path = write_legacy(tmp_path / "a.h5", [take])
    import_egoexor(path, tmp_path / "out")
    found = read_picture(tmp_path / "out/takes/Ultrasound_1_1/views/assistant/000000.jpg").astype(int)
    assert np.abs(found - smooth[..., ::-1]).max() <= 4


def test_gaze_rows(tmp_path: Path) -> None:
    """Section 2: number of the source, x, y in px, depth in m."""
    take = tiny_take("Ultrasound", 5, 1)
    folder = imported(tmp_path, take)
    for frame in range(take.frames):
        rows = np.load(folder / "gaze" / f"{frame:06d}.npy")
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows[:, :3], of(take, "eye_gaze/coordinates")[frame])
        np.testing.assert_array_equal(rows[:, 3], of(take, "eye_gaze_depth/values")[frame])


def test_gaze_and_hands_of_a_file_that_counts_its_sources_otherwise(tmp_path: Path) -> None:
    """Section 3: rows are told by the number of the file's own table; the house layout by the place of the camera."""
    take = tiny_take("Ultrasound", 5, 1, frames=2)
    take.cameras = (*take.cameras[:4], "ceiling_1")
    own = {"assistant": 1, "head_surgeon": 2, "circulator": 3, "ceiling_1": 4, "blank": 0}
    gaze, hands = of(take, "eye_gaze/coordinates"), of(take, "hand_tracking/positions")
    gaze[0, :, 0] = hands[0, :, 0] = [1, 2, 4]
    gaze[1, :, 0] = hands[1, :, 0] = [0, 3, 2]
    source = write_legacy(tmp_path / "a.h5", [take], sources=own)
    assert not import_egoexor(source, tmp_path / "out").problems
    cameras = list(Domain.read(tmp_path / "out/domain.yaml").collections[0].camera)
    expected = [["assistant", "head_surgeon", "ceiling_1"], [None, "circulator", "head_surgeon"]]
    for kind in ("gaze", "hands"):
        for frame, names in enumerate(expected):
            rows = np.load(tmp_path / "out/takes/Ultrasound_5_1" / kind / f"{frame:06d}.npy")
            assert rows[:, 0].tolist() == [-1 if name is None else cameras.index(name) + 1 for name in names]
    assert import_egoexor(source, tmp_path / "out").finished == ("Ultrasound_5_1",)


def test_gaze_that_is_no_number(tmp_path: Path) -> None:
    """Section 2: said as the files say it: source -1, point (-1, -1), depth 1.0; rows keep their places."""
    take = tiny_take("Ultrasound", 5, 1, frames=2)
    gaze, depth = of(take, "eye_gaze/coordinates"), of(take, "eye_gaze_depth/values")
    gaze[1] = [[np.nan, 4, 5], [1, np.nan, 5], [3, 6, 7]]
    depth[1] = [0.5, np.nan, 0.25]
    found = np.load(imported(tmp_path, take) / "gaze/000001.npy")
    np.testing.assert_array_equal(found, [[-1, 4, 5, 0.5], [1, -1, -1, 1], [3, 6, 7, 0.25]])


def test_gaze_without_depth_has_the_value_of_unknown_depth(tmp_path: Path) -> None:
    """Section 2: 1.0 where unknown."""
    take = tiny_take()
    take.arrays["eye_gaze_depth/values"] = None
    folder = imported(tmp_path, take)
    assert (np.load(folder / "gaze/000003.npy")[:, 3] == 1).all()
    assert "gaze_depth: false" in (folder / "take.yaml").read_text()


@pytest.mark.parametrize(
    ("take", "role"),
    [
        (("Ultrasound", 1, 1), "assistant"),
        (("Ultrasound", 4, 6), "head_surgeon"),
        (("MISS", 3, 2), "anesthetist"),
        (("MISS", 3, 6), "circulator"),
        (("Ultrasound", 5, 2), None),
    ],
)
def test_gaze_correction(take: tuple[str, int, int], role: str | None) -> None:
    """Section 6: (-9, -4) px of a picture of 336 px; points that were not found stay."""
    name = "_".join(map(str, take))
    people = [SOURCES[each] for each in ("assistant", "head_surgeon", "circulator", "anesthetist")]
    points = np.array([[[person, 100, 200], [person, -1, -1], [person, -1, 7]] for person in [*people, np.nan]])
    points = points.reshape(1, -1, 3).astype(np.float32)
    moved = correct_gaze(points, name, SOURCES, (336, 336)).reshape(-1, 3, 3)
    for person, rows in zip([*people, None], moved):
        is_off = role is not None and person == SOURCES[role]
        np.testing.assert_array_equal(
            rows[:, 1:], [[91, 196], [-1, -1], [-10, 3]] if is_off else [[100, 200], [-1, -1], [-1, 7]]
        )


def test_gaze_correction_grows_with_the_picture(tmp_path: Path) -> None:
    take = tiny_take(frames=2)
    of(take, "eye_gaze/coordinates")[0, 0, 1:] = 20, 10
    for gaze, expected in (("corrected", (20 - 9 * 32 / 336, 10 - 4 * 32 / 336)), ("stored", (20, 10))):
        (tmp_path / gaze).mkdir()
        folder = imported(tmp_path / gaze, take, gaze=gaze)
        np.testing.assert_allclose(np.load(folder / "gaze/000000.npy")[0, 1:3], expected, rtol=1e-6)
        assert f"gaze: {gaze}" in (folder / "take.yaml").read_text()


def test_gaze_of_the_second_release_is_left_as_stored(tmp_path: Path) -> None:
    """Section 6: whether it is corrected already is not known."""
    take = tiny_take()
    import_egoexor(write_hq(tmp_path / "a.h5", [take]), tmp_path / "out")
    rows = np.load(tmp_path / "out/takes/Ultrasound_1_1/gaze/000000.npy")
    np.testing.assert_array_equal(rows[:, :3], of(take, "eye_gaze/coordinates")[0])


def test_hands_as_stored(tmp_path: Path) -> None:
    """Section 5: 17 values in the order of the file, NaN singly; rows may be fewer than those of gaze."""
    take = tiny_take()
    hands = of(take, "hand_tracking/positions")[:, :2]
    hands[1, 0, 9:13] = np.nan
    hands[2, 1, 0] = np.nan
    take.arrays["hand_tracking/positions"] = hands
    folder = imported(tmp_path, take)
    for frame in range(take.frames):
        rows = np.load(folder / "hands" / f"{frame:06d}.npy")
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, hands[frame])


@pytest.mark.parametrize("scale", [1, 255])
def test_clouds_without_points_that_are_no_number(tmp_path: Path, scale: int) -> None:
    """Section 2: metres; colours are fractions of 1 or go to 255; NaN rows are tolerated."""
    take = tiny_take("MISS", frames=4)
    points, colors = of(take, "point_cloud/coordinates"), of(take, "point_cloud/colors")
    colors *= scale
    colors[3, 0, 0] = scale
    points[1, 2, 1] = np.nan
    points[2] = np.nan
    folder = imported(tmp_path, take)
    assert sorted(path.stem for path in (folder / "clouds").iterdir()) == ["000000", "000001", "000003"]
    for frame in (0, 1, 3):
        kept = np.isfinite(points[frame]).all(axis=1)
        with np.load(folder / "clouds" / f"{frame:06d}.npz") as found:
            assert (found["points"].dtype, found["colors"].dtype) == (np.float32, np.uint8)
            np.testing.assert_array_equal(found["points"], points[frame][kept])
            np.testing.assert_allclose(found["colors"], colors[frame][kept] * (255 / scale), atol=0.5001)


@pytest.mark.parametrize("value", [200.0, -0.1])
def test_colours_of_two_kinds_cost_the_take(tmp_path: Path, value: float) -> None:
    """Fractions at first and larger numbers later: nobody can say what is meant."""
    take = tiny_take("MISS", frames=6)
    of(take, "point_cloud/colors")[5, 0, 0] = value
    take.chunk = 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("operating_room.importers.egoexor.hdf5.READ_BYTES", 100)
        (problem,) = run(tmp_path, take).problems
    assert problem.startswith(f"{tmp_path / 'take.h5'}:/data/MISS/1/take/1/point_cloud/colors: has colours from ")
    assert "in frame 5" in problem
    assert not (tmp_path / "out/takes/MISS_1_1/take.yaml").exists()


@given(
    samples=arrays.arrays(
        np.float32, (2, 48_000, 2), elements=st.floats(-1, 1, width=32), fill=st.floats(-1, 1, width=32)
    )
)
def test_snippets(tmp_path_factory: pytest.TempPathFactory, samples: np.ndarray) -> None:
    """Section 2: a second in stereo at 48 kHz for each frame; 24 bits lose nothing that can be heard."""
    folder = tmp_path_factory.mktemp("sound")
    take = tiny_take(frames=2)
    take.arrays["audio/snippets"] = samples
    out = imported(folder, take)
    for frame in range(2):
        found, rate = soundfile.read(out / "audio" / f"{frame:06d}.flac", dtype="float32")
        assert rate == 48_000
        np.testing.assert_allclose(found, samples[frame], atol=2**-22)
    assert not (out / "sound.flac").exists()


def test_waveform_alone(tmp_path: Path) -> None:
    take = tiny_take()
    take.arrays["audio/snippets"] = None
    out = imported(tmp_path, take)
    found, rate = soundfile.read(out / "sound.flac", dtype="float32")
    assert rate == 48_000
    np.testing.assert_allclose(found, of(take, "audio/waveform"), atol=2**-22)
    assert not (out / "audio").exists()


def test_loud_sound_is_clipped_and_counted(tmp_path: Path) -> None:
    take = tiny_take(frames=3)
    of(take, "audio/snippets")[1, 10] = 1.5, -2
    report = run(tmp_path, take)
    assert report.imported[take.name]["clipped"] == 1
    found, _ = soundfile.read(tmp_path / "out/takes/Ultrasound_1_1/audio/000001.flac")
    np.testing.assert_allclose(found[10], [1, -1], atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 32767])
def test_sound_that_is_none_costs_the_take(tmp_path: Path, value: float) -> None:
    take = tiny_take()
    of(take, "audio/snippets")[1, 10, 0] = value
    (problem,) = run(tmp_path, take).problems
    assert problem.startswith(f"{tmp_path / 'take.h5'}:/data/Ultrasound/1/take/1/audio/snippets: has samples up to")


def test_graphs_in_canonical_words_and_our_order(tmp_path: Path) -> None:
    """Sections 2 and 3.3: stored as subject, predicate, object with the spellings of the files."""
    folder = imported(tmp_path, tiny_take(frames=5))
    assert sorted(path.name for path in (folder / "graphs").iterdir()) == ["000000.json", "000004.json"]
    assert json.loads((folder / "graphs/000000.json").read_text()) == [
        ["patient", "operating_table", "lyingon"],
        ["anesthetist", "operating_table", "closeto"],
        ["head_surgeon", "microscope", "looking"],
    ]


def test_graph_without_triplets(tmp_path: Path) -> None:
    """An annotated frame in which nothing happens is no missing annotation."""
    take = tiny_take()
    take.graphs = {2: ()}
    assert json.loads((imported(tmp_path, take) / "graphs/000002.json").read_text()) == []
