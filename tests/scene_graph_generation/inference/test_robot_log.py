"""MM-OR's robot log is told to a model that was made for it, in training and inference alike, and to no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from operating_room.domain.domain import mmor
from operating_room.graphs.prompts import conversation
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.settings import MODALITIES, MM2SGConfig
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inference.infer import infer
from scene_graph_generation.inputs.example import Example
from tests.operating_room.published import place
from tests.operating_room.tiny_dataset import MMOR_NAME, write, write_dataset

TAKE = mmor().find_take(MMOR_NAME)


class Reader(SceneGraphGenerator):
    """Notes its prompts."""

    fingerprint = "reader"
    _tokens: Any = SimpleNamespace(conversation=conversation)

    def __init__(self, modalities: tuple[str, ...]) -> None:
        self.model: Any = SimpleNamespace(settings=MM2SGConfig(modalities=modalities))
        self.prompts: list[str] = []
        self._reader: Any = self._note

    def _note(self, evidence: Any, prompt: str, **_: Any) -> Any:
        self.prompts.append(prompt)
        return Example(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3, 1, 1))

    def read_ahead(self, timepoints: Sequence[Any]) -> None:
        """There is nothing to read."""

    def answer(self, examples: Sequence[Any]) -> list[str]:
        return ["<SG> </SG>"] * len(examples)


@pytest.mark.parametrize(("modalities", "told"), [((*MODALITIES, "robot_log"), True), (MODALITIES, False)])
def test_a_model_made_for_the_robot_log_is_told_it(tmp_path: Path, modalities: tuple[str, ...], told: bool) -> None:
    root = write_dataset(tmp_path / "data")
    write(place(root / "MM-OR_data", "robot_log", TAKE), {str(i): {"log_lines": ["arm ready"]} for i in range(5)})
    reader = Reader(modalities)
    infer(reader, Dataset(root), {TAKE: None}, tmp_path / "p.json")
    assert len(reader.prompts) == 3
    assert all(("<robot_log_start>: arm ready <robot_log_end>" in prompt) == told for prompt in reader.prompts)
