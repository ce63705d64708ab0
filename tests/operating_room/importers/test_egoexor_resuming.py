"""The import again: interrupted before, of other files or options, or into the folder of others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("h5py", reason="h5py is not installed (extra egoexor)")

import h5py

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.importers.egoexor import importing
from operating_room.importers.egoexor.frames import Piece, write_piece
from operating_room.importers.egoexor.importing import import_egoexor
from tests.operating_room.importers.tiny_egoexor import (
    files,
    tiny_take,
    write_legacy,
)


def test_interrupted_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that are done are not written again, and the result is that of an import at a stretch."""
    monkeypatch.setattr("operating_room.importers.egoexor.hdf5.READ_BYTES", 1)
    source = write_legacy(tmp_path / "a.h5", [tiny_take("MISS", frames=7), tiny_take(frames=5)])
    import_egoexor(source, tmp_path / "whole", pictures="png")
    written: list[str] = []

    def some(piece: Piece) -> dict[str, int]:
        if len(written) == 9:
            raise KeyboardInterrupt
        written.append(f"{piece.facts.take.name} {piece.key}")
        return write_piece(piece)

    monkeypatch.setattr(importing, "write_piece", some)
    with pytest.raises(KeyboardInterrupt):
        import_egoexor(source, tmp_path / "out", pictures="png")
    assert not (tmp_path / "out/takes/MISS_1_1/take.yaml").exists()
    first, written[:] = list(written), []

    def counted(piece: Piece) -> dict[str, int]:
        written.append(f"{piece.facts.take.name} {piece.key}")
        return write_piece(piece)

    monkeypatch.setattr(importing, "write_piece", counted)
    import_egoexor(source, tmp_path / "out", pictures="png")
    assert len(first) == 9
    assert not set(first) & set(written)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    written.clear()
    report = import_egoexor(source, tmp_path / "out", pictures="png")
    assert not written
    assert report.finished == ("MISS_1_1", "Ultrasound_1_1")
    assert not report.imported


def test_interrupted_in_the_first_piece_of_a_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are there and none of its pieces is done: the take is still the import's own."""
    source = write_legacy(tmp_path / "a.h5", [tiny_take()])
    import_egoexor(source, tmp_path / "whole")

    def half(piece: Piece) -> dict[str, int]:
        write_piece(piece)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(importing, "write_piece", half)
        with pytest.raises(KeyboardInterrupt):
            import_egoexor(source, tmp_path / "out")
    assert any((tmp_path / "out/takes/Ultrasound_1_1/views").iterdir())
    with pytest.raises(UserError, match="with other options"):
        import_egoexor(source, tmp_path / "out", pictures="png")
    import_egoexor(source, tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_second_import_into_the_folder_is_refused_while_the_first_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun at once with other options, a take got pictures of both, and its take.yaml said one of them."""
    source, out = write_legacy(tmp_path / "a.h5", [tiny_take()]), tmp_path / "out"
    told: list[str] = []

    def while_another_begins(piece: Piece) -> dict[str, int]:
        monkeypatch.setattr(importing, "write_piece", write_piece)
        with pytest.raises(UserError) as error:
            import_egoexor(source, out, colours="as_trained")
        told.append(str(error.value))
        return write_piece(piece)

    import_egoexor(source, tmp_path / "whole")
    monkeypatch.setattr(importing, "write_piece", while_another_begins)
    import_egoexor(source, out)
    assert told == [f"{out}: another run is writing it; wait for it or choose another output"]
    assert files(out) == files(tmp_path / "whole")
    with pytest.raises(UserError):
        import_egoexor(tmp_path / "nothing.h5", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_interrupted_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pieces written, take.yaml not."""
    source = write_legacy(tmp_path / "a.h5", [tiny_take()])
    with monkeypatch.context() as patch:
        patch.setattr(importing, "write_text", lambda path, text: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            import_egoexor(source, tmp_path / "out")
    report = import_egoexor(source, tmp_path / "out")
    assert report.imported["Ultrasound_1_1"]["pictures"] == 25


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"colours": "as_trained"}, "colours true_rgb, not as_trained"),
        ({"pictures": "png"}, "pictures jpg, not png"),
        ({"gaze": "stored"}, "gaze corrected, not stored"),
        ({"period": 0.25}, "period 0.066"),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_other_options_than_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], told: str, is_finished: bool
) -> None:
    take = tiny_take()
    if "period" in options:
        take.arrays["audio/waveform"] = None
    source, out = write_legacy(tmp_path / "a.h5", [take]), tmp_path / "out"
    if is_finished:
        import_egoexor(source, out)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(importing._Work, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                import_egoexor(source, out)
    before = files(out)
    with pytest.raises(UserError, match="was imported from other files or with other options") as error:
        import_egoexor(source, out, **options)
    assert told in str(error.value)
    assert files(out) == before


def test_another_recording_of_the_same_name(tmp_path: Path) -> None:
    write_legacy(tmp_path / "a.h5", [tiny_take(frames=4)])
    write_legacy(tmp_path / "b.h5", [tiny_take(frames=4, seed=1)])
    import_egoexor(tmp_path / "a.h5", tmp_path / "out")
    with pytest.raises(UserError, match=r"take\.yaml: was imported from other files .*fingerprint"):
        import_egoexor(tmp_path / "b.h5", tmp_path / "out")


def test_moved_file_is_the_same_recording(tmp_path: Path) -> None:
    """Also in a merged file: what counts is what the take holds."""
    write_legacy(tmp_path / "a.h5", [tiny_take()])
    import_egoexor(tmp_path / "a.h5", tmp_path / "out")
    write_legacy(tmp_path / "egoexor.h5", [tiny_take("MISS", frames=1), tiny_take()])
    report = import_egoexor(tmp_path / "egoexor.h5", tmp_path / "out")
    assert report.finished == ("Ultrasound_1_1",)
    assert list(report.imported) == ["MISS_1_1"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("views/assistant/000000.jpg", "x", "is there and was not imported from EgoExOR"),
        ("take.yaml", "frames: 3\n", "this take was not imported from EgoExOR"),
        ("take.yaml", "a: [", "is not valid YAML"),
        (".import.json", "[]", "is no list of what was imported"),
        (".import.json", "{", "is not valid JSON"),
        (".import.json", '{"recipe": {}, "done": {"views 0-2": 5}}', "is no list of what was imported"),
        (".import.json", '{"recipe": {}, "done": {"views 0-2": {"pictures": "x"}}}', "is no list of what was imported"),
    ],
)
def test_folder_of_others(tmp_path: Path, name: str, content: str, told: str) -> None:
    path = tmp_path / "out/takes/Ultrasound_1_1" / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UserError, match=told):
        import_egoexor(write_legacy(tmp_path / "a.h5", [tiny_take()]), tmp_path / "out")
    assert path.read_text() == content


@pytest.mark.parametrize("content", ["train: 3\n", "train: [{a: 1}]\n", "train: [A_1_1]\nval: [A_1_1]\n"])
def test_splits_file_of_another_form(tmp_path: Path, content: str) -> None:
    """Refused with its line before anything is written."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/splits.yaml").write_text(content)
    with pytest.raises(UserError, match=r"splits\.yaml:[12]: "):
        import_egoexor(write_legacy(tmp_path / "a.h5", [tiny_take()]), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["splits.yaml"]


def test_folder_with_another_domain(tmp_path: Path) -> None:
    """Its words and cameras would be mixed up with EgoExOR's."""
    path = tmp_path / "out/domain.yaml"
    path.parent.mkdir()
    path.write_text(mmor().to_yaml())
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"domain\.yaml: is the domain mmor, not egoexor; import into another folder"):
        import_egoexor(write_legacy(tmp_path / "a.h5", [tiny_take()]), tmp_path / "out")
    assert path.read_bytes() == before
    assert not (tmp_path / "out/takes").exists()


@pytest.fixture(autouse=True)
def no_open_files() -> Iterator[None]:
    """Every HDF5 file is closed again."""
    yield
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0


def test_an_output_that_is_a_file_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told behind a look at all takes, as a lack of space or permissions."""
    source = write_legacy(tmp_path / "miss_1.h5", [tiny_take("MISS", frames=4)])
    monkeypatch.delattr(importing, "find_recordings")
    for out in (source, source / "below"):
        with pytest.raises(UserError, match=r"miss_1\.h5: is no folder; choose another output"):
            import_egoexor(source, out)
