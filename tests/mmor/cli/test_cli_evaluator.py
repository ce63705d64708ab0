"""Results of `evaluate-all` hold for the inputs that they were made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmor.cli.evaluator import Config, Evaluator
from operating_room.graphs.scene_graph import Sample
from operating_room.recordings.dataset import Dataset
from tests.operating_room.tiny_house import FRAMES, array, write_house


@pytest.mark.parametrize("kind", ["gaze/{}.npy", "audio_embeddings/{}.pt"])
def test_results_do_not_hold_for_other_files_of_the_same_size(tmp_path: Path, kind: str) -> None:
    """Fault: `evaluate-all` used results again although sound had been prepared with another encoder."""
    root = write_house(tmp_path / "kitchen")
    paths = [root / "takes" / "soup" / kind.format(f"{frame:06d}") for frame in range(FRAMES)]

    def write_and_ask(value: float) -> object:
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            vector = torch.full((512,), value)
            path.write_bytes(array(vector[:4].numpy()[None])) if path.suffix == ".npy" else torch.save(vector, path)
        dataset = Dataset(root)
        (take,) = [take for take in dataset.takes() if take.name == "soup"]
        samples = [Sample(take.sample_name, f"{frame:06d}", ()) for frame in range(FRAMES)]
        run = Evaluator(samples, tmp_path, Config.MMOR, "train", dataset, 8, None, None, 300)
        return run.about(tmp_path)

    assert write_and_ask(1.0) != write_and_ask(2.0)
