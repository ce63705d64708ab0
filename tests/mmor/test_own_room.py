"""An afternoon with a room of one's own: the domain and the lines of docs/own_room.md as they stand there."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mmor.cli import app
from operating_room.domain.domain import Domain, mmor
from operating_room.domain.house import HOUSE_MODALITIES
from operating_room.errors import UserError
from operating_room.files.atomic import write_json, write_text
from operating_room.graphs.graph_files import load_predictions, load_samples
from operating_room.recordings.dataset import Dataset
from tests.mmor.documents import ROOT, commands

DOCUMENT = ROOT / "docs" / "own_room.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
LINES = [command.text for command in commands(DOCUMENT) if command.is_whole]


def domain_text() -> str:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    return block


@pytest.fixture(scope="module")
def afternoon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Result]]]:
    """The folder of a user who has saved the domain and typed all lines, and what each has said."""
    folder = tmp_path_factory.mktemp("afternoon")
    write_text(folder / "my_room.yaml", domain_text())
    said: dict[str, Result] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in LINES:
            words = [name for word in shlex.split(line)[1:] for name in sorted(glob.glob(word)) or [word]]
            said[line] = CliRunner().invoke(app, words)
            assert said[line].exit_code == 0, f"{line}\n{said[line].output}\n{said[line].exception!r}"
        yield folder / "clinic", said


def said(results: dict[str, Result], beginning: str) -> str:
    (result,) = (result for line, result in results.items() if line.startswith(f"mmor {beginning}"))
    return result.stdout


def test_from_a_domain_to_scores(afternoon: tuple[Path, dict[str, Result]]) -> None:
    folder, results = afternoon
    assert "0 broken, 0 gaps" in said(results, "data check")
    shown = said(results, "data show")
    assert "microscope stand" in shown
    assert "handingOver" in shown
    assert "drilling" not in shown
    assert len(load_samples(folder / "relationships_train.json")) == 40
    evaluated = said(results, "panoptic evaluate")
    assert "STQ" in evaluated
    assert "microscope_stand" in evaluated
    assert set(load_predictions(folder / "graphs.json")) == {"day_3_000000", "day_3_000001"}
    scores = said(results, "scene-graph evaluate")
    assert "implanting" in scores
    assert "sawing" not in scores
    assert Domain.read(folder / "model" / "domain.yaml").digest == Domain.read(folder / "domain.yaml").digest


def test_everything_is_prepared_and_written_beside_the_takes(afternoon: tuple[Path, dict[str, Result]]) -> None:
    folder, _ = afternoon
    result = CliRunner().invoke(app, ["data", "check", str(folder)])
    assert result.exit_code == 0, result.stdout
    assert sorted(path.name for path in folder.parent.iterdir()) == ["clinic", "my_room.yaml"]
    assert not list(folder.rglob("*partial*"))


def test_the_model_is_refused_for_takes_of_another_room(
    afternoon: tuple[Path, dict[str, Result]], tmp_path: Path
) -> None:
    folder, _ = afternoon
    other = tmp_path / "other.yaml"
    write_text(other, domain_text().replace("lens", "implant"))
    words = ["scene-graph", "infer", "--model", str(folder / "model"), "--data", str(folder), "--domain", str(other)]
    result = CliRunner().invoke(app, [*words, "--take", "test", "--out", str(tmp_path / "graphs.json"), "--limit", "1"])
    assert isinstance(result.exception, UserError)
    assert "entities: only here: implant; only there: lens" in str(result.exception)


def test_a_folder_of_pictures_made_by_hand_is_read(tmp_path: Path) -> None:
    """Section 3: only what is needed, with the domain handed in."""
    from PIL import Image

    write_text(tmp_path / "domain.yaml", domain_text())
    take = tmp_path / "takes" / "monday"
    write_text(take / "take.yaml", "period: 1.0\nframes: 2\npictures: jpg\n")
    for frame in range(2):
        (take / "views" / "door").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(take / "views" / "door" / f"{frame:06d}.jpg")
        write_json(take / "graphs" / f"{frame:06d}.json", [["surgeon", "patient", "incising"]])
    dataset = Dataset(tmp_path)
    assert [each.name for each in dataset.select("own")] == ["monday"]
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert "0 broken" in result.stdout
    write_json(take / "graphs" / "000001.json", [["surgeon", "patient", "juggling"]])
    told = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert told.exit_code == 2
    assert "juggling" in told.stdout


def test_every_modality_and_file_of_the_layout_is_in_the_document() -> None:
    for name in HOUSE_MODALITIES:
        assert f"`{name}`" in TEXT, name
    domain = Domain.read(ROOT / "operating_room" / "domain" / "egoexor.yaml")
    (house,) = domain.collections
    patterns = [*house.files.values(), *house.take_files.values(), house.cameras[0].picture, *house.annotation]
    for pattern in patterns:
        name = Path(pattern).parts[2].split(".")[0]  # takes/{take}/NAME/...
        assert f"{name}/" in TEXT or f"{name}." in TEXT, pattern


def test_every_key_of_a_domain_is_in_the_document() -> None:
    import yaml

    written = yaml.safe_load(mmor().to_yaml())
    for key in (*written, *written["language"], *written["labels"]):
        if key != "system":  # the text before each conversation, of a model
            assert f"`{key}`" in TEXT or f".{key}`" in TEXT or f"{key}:" in TEXT, key


def test_nothing_of_libraries_is_said(afternoon: tuple[Path, dict[str, Result]]) -> None:
    _, results = afternoon
    for line, result in results.items():
        assert "Warning" not in result.stderr, line
