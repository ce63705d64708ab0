"""Mask reduction, transcripts and audio windows against the recorded files (data specification, sections 8 and 9)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from operating_room.domain.domain import mmor
from operating_room.files.readers import read_label_mask, read_picture, read_subtitles
from operating_room.recordings.masks import reduce_labels
from operating_room.recordings.transcripts import audio_window, spoken_texts
from tests.parity import commands
from tests.parity.case import EXACT, Result, compare, load_json


def segmask_downsample(folder: Path) -> Iterator[Result]:
    """Label maps to 32x32, and a class-colour picture to labels to 32x32."""
    cases = load_json(folder / "cases.json")
    size = cases["output_resolution"]
    for case in cases["cases"]:
        ours = reduce_labels(read_label_mask(folder / case["input"]), size)
        yield compare(case["input"], ours, read_label_mask(folder / case["expected"]), EXACT)
    if case := cases.get("colour_case"):
        name = case["input"].split()[0]  # the file name, with a remark after it
        labels = mmor().labels.colors_to_labels(read_picture(folder / name))
        yield compare(f"{name} labels", labels, read_label_mask(folder / case["label"]), EXACT)
        expected = read_label_mask(folder / case["expected"])
        yield compare(f"{name} reduced", reduce_labels(labels, size), expected, EXACT)
    with tempfile.TemporaryDirectory() as root:
        yield from commands.small_masks(folder, cases, Path(root))


def speech_audio(folder: Path) -> Iterator[Result]:
    """The words known at each second, and the window of sound."""
    cases = load_json(folder / "cases.json.gz")
    for case in cases["transcripts"]:
        theirs = {int(second): text for second, text in case["text_per_second"].items()}
        yield compare(case["srt"], spoken_texts(read_subtitles(folder / case["srt"]), theirs), theirs, EXACT)
    if windows := cases.get("audio_windows_n_seconds_1"):
        ours = [audio_window(int(window["timepoint"])) for window in windows]
        theirs = [(float(window["start_second"]), float(window["duration_seconds"])) for window in windows]
        yield compare("audio windows", ours, theirs, EXACT)
    with tempfile.TemporaryDirectory() as root:
        yield from commands.transcripts(folder, cases["transcripts"], Path(root))
        if windows:
            yield from commands.audio_clips(windows, Path(root))


KINDS = {"segmask_downsample": segmask_downsample, "speech_audio": speech_audio}
