"""Progress in a log file and on a terminal, with a clock and a stream of the test's own."""

from __future__ import annotations

import sys
import time
from io import StringIO
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from computing.training_progress import shown_progress
from operating_room.work import progress
from operating_room.work.progress import Steps, track
from operating_room.work.workers import in_workers


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def work(count: int, seconds: float, total: int | None, done: int = 0, loss: bool = False) -> list[str]:
    """The lines about `count` steps of `seconds` each."""
    clock, stream = Clock(), StringIO()
    with Steps("segmenting", total, done, clock, stream) as steps:
        for step in range(count):
            clock.now += seconds
            steps.advance(values={"loss": 10.0 / (step + 1)} if loss else None)
    return stream.getvalue().splitlines()


def test_a_log_file_gets_a_line_now_and_then_with_rate_and_time_left() -> None:
    lines = work(3600, 1.0, 3600)
    assert lines[0] == "segmenting 1/3600, 1.0/s, 0:59:59 left"
    assert lines[1] == "segmenting 2/3600, 1.0/s, 0:59:58 left"
    assert lines[2] == "segmenting 4/3600, 1.0/s, 0:59:56 left"
    assert 100 < len(lines) < 130  # every half minute
    assert lines[-1] == "segmenting 3600/3600, 1.0/s, after 1:00:00"


def test_losses_are_shown_and_slow_steps_are_told_in_seconds() -> None:
    assert work(2, 90.0, 2, loss=True) == [
        "segmenting 1/2, loss 10, 90.0 s each, 0:01:30 left",
        "segmenting 2/2, loss 5, 90.0 s each, 0:00:00 left",
        "segmenting 2/2, loss 5, 90.0 s each, after 0:03:00",
    ]


def test_what_an_earlier_run_did_does_not_count_in_the_rate() -> None:
    assert work(1, 10.0, 101, done=90)[0] == "segmenting 91/101, 10.0 s each, 0:01:40 left"


def test_an_unknown_total_and_short_work() -> None:
    assert work(1, 5.0, None)[0] == "segmenting 1, 5.0 s each"
    assert work(5, 0.1, 5) == []


def test_work_inside_shown_work_is_silent() -> None:
    clock, outer, inner = Clock(), StringIO(), StringIO()
    with Steps("outer", 1, 0, clock, outer) as steps, Steps("inner", 1, 0, clock, inner) as others:
        clock.now += 50
        others.advance()
        steps.advance()
    assert inner.getvalue() == ""
    assert outer.getvalue().startswith("outer 1/1")
    assert work(1, 5.0, 1)  # and the next one speaks again


def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "is_first", lambda: False)
    assert work(10, 60.0, 10) == []


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    clock, stream = Clock(), Terminal()
    with Steps("segmenting", 2, 0, clock, stream) as steps:
        steps.advance(values={"loss": 2.5})
        steps.advance()
    assert "segmenting" in stream.getvalue()
    assert "2/2" in stream.getvalue()


def test_a_terminal_that_cannot_go_back_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    clock, stream = Clock(), Terminal()
    with Steps("segmenting", 2, 0, clock, stream) as steps:
        clock.now += 5
        steps.advance()
    assert stream.getvalue().startswith("segmenting 1/2, 5.0 s each")


def test_nothing_is_shown_where_standard_error_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert list(track("abc", "letters")) == ["a", "b", "c"]


def test_track_passes_items_on_and_ends_its_display_when_it_is_left() -> None:
    assert list(track(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    for _ in track("abc", "letters"):
        break
    assert work(1, 5.0, 1)


def test_a_training_shows_steps_losses_and_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_FIRST", 0.0)

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (self.slope * x - x).square().mean()}

    arguments = TrainingArguments(
        str(tmp_path), max_steps=4, logging_steps=1, use_cpu=True, disable_tqdm=True, report_to="none"
    )
    trainer = Trainer(Line(), arguments, train_dataset=[{"x": torch.ones(1)}] * 8)
    with shown_progress(trainer):
        trainer.train()
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert lines[0].startswith("training, step 1/4")
    assert "loss" in lines[-1]
    assert "learning_rate" in lines[-1]
    assert lines[-1].startswith("training, step 4/4")
    assert "{" not in output.out + output.err


def test_a_log_hears_that_work_of_several_processes_has_begun(capfd: pytest.CaptureFixture[str]) -> None:
    """Several takes at once were silent until the first was done, which can last an hour."""
    list(in_workers(time.sleep, [3.0, 3.0], 2, "naps"))
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "naps 0/2"
    assert said[-1].startswith("naps 2/2, ")
