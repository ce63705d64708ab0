"""What was said up to each second of a take (data specification, section 9)."""

from __future__ import annotations

from collections.abc import Sequence

from operating_room import layout
from operating_room.dataset import Dataset
from operating_room.files import write_json
from operating_room.progress import track
from operating_room.readers import read_subtitles
from operating_room.takes import Take
from operating_room.transcripts import spoken_text
from scene_graph_generation.preprocess.audio import take_times


def preprocess_transcripts(dataset: Dataset, takes: Sequence[Take]) -> int:
    """Write the words of each second of these takes; files that exist are kept. Returns how many were written.

    Takes without a transcript are passed over.

    Raises:
        UserError: a transcript or its list of seconds is damaged.
    """
    written = 0
    for take in track(takes, "transcripts"):
        root = dataset.take(take).root
        times = [time for time in take_times(root, take) if not layout.transcript(root, take, time).is_file()]
        path = layout.subtitles(root, take)
        if times and path.exists():
            subtitles = read_subtitles(path)
            for time in times:
                write_json(layout.transcript(root, take, time), {"text": spoken_text(subtitles, int(time))})
                written += 1
    return written
