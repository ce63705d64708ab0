"""What was prepared is made again when anything that it follows from has changed, and is whole or absent."""

from __future__ import annotations

import io
import resource
import signal
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from operating_room.errors import UserError
from operating_room.files import picture_files
from operating_room.files.readers import read_json
from operating_room.recordings.dataset import Dataset
from panoptic_segmentation.data.ground_truth import prepare
from panoptic_segmentation.data.videos import find_videos
from scene_graph_generation.inputs.views import ViewReader
from scene_graph_generation.preprocess.audio import preprocess_audio
from scene_graph_generation.preprocess.embeddings import mel_encoder, preprocess_audio_embeddings
from scene_graph_generation.preprocess.masks import preprocess_masks
from scene_graph_generation.preprocess.transcripts import preprocess_transcripts
from scene_graph_generation.preprocess.views import preprocess_views
from tests.operating_room.tiny_dataset import label_picture, write
from tests.operating_room.tiny_house import FRAMES, write_house


def test_another_period_is_heard_and_read_at_other_times(tmp_path: Path) -> None:
    """Fault: a period that was mended in take.yaml left clips, vectors and words of other moments."""
    root = write_house(tmp_path / "kitchen")
    (take,) = [take for take in Dataset(root).takes() if take.name == "soup"]
    write(words := root / "takes" / "soup" / "transcript.srt", "1\n00:00:01,000 --> 00:00:01,400\nstir\n\n")
    steps = (
        lambda: preprocess_audio(Dataset(root), [take]).require(),
        lambda: preprocess_audio_embeddings(Dataset(root), [take], mel_encoder).require(),
        lambda: preprocess_transcripts(Dataset(root), [take]).require(),
    )
    assert [step() for step in steps] == [FRAMES] * 3
    assert [step() for step in steps] == [0] * 3
    index = words.with_name("take.yaml")
    index.write_text(index.read_text().replace("period: 0.5", "period: 0.25"))
    text = root / "takes" / "soup" / "transcripts" / "000003.json"
    assert "stir" in read_json(text)["text"]
    assert [step() for step in steps] == [FRAMES] * 3
    assert "stir" not in read_json(text)["text"]


def test_a_label_that_the_domain_has_by_now_is_in_small_masks(tmp_path: Path) -> None:
    """Fault: who added the label of which preprocessing had said that it counts as background got nothing new."""
    root = write_house(tmp_path / "kitchen")
    for mask in root.glob("takes/*/label_masks/*/*.png"):
        write(mask, label_picture(0, 1, 4))

    def masks() -> int:
        dataset = Dataset(root)
        return preprocess_masks(dataset, dataset.takes(), None, as_predictions=True).require()

    assert masks() == 2 * FRAMES
    domain = (root / "domain.yaml").read_text().replace("count: 4", "count: 5")
    stove = "    - {name: stove, color: [0, 255, 0], label: 3}\n"
    write(root / "domain.yaml", domain.replace(stove, f"{stove}    - {{name: lid, color: [0, 0, 255], label: 4}}\n"))
    assert masks() == 2 * FRAMES
    assert 4 in np.asarray(Image.open(root / "takes" / "soup" / "masks" / "000001_0.png"))


def clips(root: Path, most: int) -> None:
    """Write clips in a process whose files may have so many bytes, which is told as a full disk is."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    preprocess_audio(Dataset(root), Dataset(root).takes())


def test_a_disk_that_is_full_at_the_end_of_a_clip_leaves_no_cut_clip(tmp_path: Path) -> None:
    """libsndfile says nothing when its last block cannot be written: the clip was kept as if it were whole."""
    root, sound = write_house(tmp_path / "kitchen"), io.BytesIO()
    soundfile.write(sound, np.random.default_rng(0).normal(0, 0.1, (128_000, 2)), 16_000, format="FLAC")
    for take in ("soup", "stew"):
        write(root / "takes" / take / "sound.flac", sound.getvalue())
    preprocess_audio(Dataset(root), Dataset(root).takes()).require()
    whole = {path: path.read_bytes() for path in root.glob("takes/*/audio/*.flac")}
    for path in whole:
        path.unlink()
    process = get_context("fork").Process(target=clips, args=(root, int(max(map(len, whole.values())) * 0.99)))
    process.start()
    process.join()
    there = {path: path.read_bytes() for path in root.glob("takes/*/audio/*.flac")}
    assert there.items() <= whole.items()


def test_what_was_made_of_pictures_is_made_again_once_they_are_read_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks with a palette of greys and JPEG with zeros at their end are refused now; what was made of them stayed."""
    root, size = write_house(tmp_path / "kitchen"), 28
    picture = root / "takes" / "soup" / "views" / "ceiling" / "000001.jpg"

    def made() -> tuple[int, int]:
        dataset = Dataset(root)
        takes = dataset.takes()
        prepare(find_videos(dataset, takes), tmp_path / "truth", "truth", (64, 48))
        views = preprocess_views(dataset, takes, size).require()
        return views, preprocess_masks(dataset, takes, None, as_predictions=True).require()

    first = made()
    assert first[1] == 2 * FRAMES
    assert made() == (0, 0)
    index = (tmp_path / "truth" / "datasets" / "index.json").read_text()
    monkeypatch.setattr(picture_files, "READING", 99, raising=False)
    with pytest.raises(UserError, match="or is read otherwise"):
        ViewReader(size)([picture])
    assert made() == first
    assert (tmp_path / "truth" / "datasets" / "index.json").read_text() != index
    assert ViewReader(size)([picture]).shape == (1, 3, size, size)
