"""The file that `mmor live` is writing, when another run has begun it anew."""

from __future__ import annotations

import json
from pathlib import Path

from mmor.viewer.graphs import Live


def _lines(path: Path, take: str, seconds: range) -> None:
    lines = ({"take": take, "frame_id": f"{s:06d}", "time": s, "graph": [], "text": "x" * 50} for s in seconds)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_a_file_of_another_run_is_read_from_its_start(tmp_path: Path) -> None:
    """It was gone on with in the midst of a line, once it was longer than that of the run before."""
    path = tmp_path / "live.jsonl"
    _lines(path, "001_PKA_MMOR", range(5))
    live = Live(path)
    live.update()
    assert [line.frame_id for line in live.lines] == [f"{s:06d}" for s in range(5)]
    _lines(path, "014_TKA_MMOR_2", range(3, 23))
    live.update()
    assert [line.frame_id for line in live.lines] == [f"{s:06d}" for s in range(3, 23)]
    assert live.damaged == 0
    _lines(path, "014_TKA_MMOR_2", range(3, 25))  # grown, not begun anew
    live.update()
    assert [line.at_s for line in live.lines] == list(range(3, 25))
