"""Options of `mmor live`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from computing import machine
from computing.machine import Gpu
from mmor.cli.live import _segmenter, sound_encoder
from mmor.demo import BUNDLED, SEGMENTER
from operating_room.domain.domain import mmor


def test_the_device_that_is_asked_for_is_that_of_segmenter_and_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--device cpu` beside a training that fills the GPU: nothing may be put on it, not even for a moment."""
    there: list[torch.device] = []

    class Clap:
        def eval(self) -> Clap:
            return self

        def to(self, device: torch.device) -> Clap:
            there.append(device)
            return self

    monkeypatch.setattr(machine, "gpus", lambda: [Gpu(0, "full", 8 << 30, (9, 0), True)])
    monkeypatch.setattr(transformers.ClapModel, "from_pretrained", lambda _: Clap())
    monkeypatch.setattr(transformers.ClapFeatureExtractor, "from_pretrained", lambda _: None)
    move = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: there.append(device) or move(self, device))
    recorded: Any = SimpleNamespace(domain=mmor(), collection=mmor().collections[0])
    _segmenter(BUNDLED / SEGMENTER, recorded, "cpu")
    sound_encoder("clap", False, None, None, "cpu")
    assert there == [torch.device("cpu")] * 2
