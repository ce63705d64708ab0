"""EgoExOR's published form of training samples (arXiv 2505.24287): pixels by their place in the HDF5 files.

Its records hold no paths. They are written for programs that read those files; here, samples of the house layout are
trained on, and published ones are scored (`operating_room.graphs.graph_files.load_samples` reads them).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from operating_room.errors import UserError
from operating_room.graphs.prompts import human_prompt
from operating_room.graphs.scene_graph import Sample, target_text
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.timepoint import Timepoint
from scene_graph_generation.samples.records import LeftOut, Record, SampleOptions, on_disk, turns
from scene_graph_generation.samples.sample_memory import drop_ending

FRAMES = ("ego_frames", "exo_frames")  # are listed always
RECORDED = {  # what a timepoint has -> how the published form calls it
    "gaze": ("eye_gaze", "eye_gaze_depth"),
    "hands": ("hand_tracking",),
    "audio": ("audio",),
    "point_cloud": ("point_cloud",),
}


def published_file_name(split: str, options: SampleOptions) -> str:
    """The published name of the training file."""
    memory = f"{options.temporal}temp_{options.augment_memory}tempaug"
    ending = drop_ending(options.drop_history) if options.drop_history > 0.01 else ""
    return f"{split}_{options.permutations}perm_{memory}_EgoExOR{ending}.json"


def published_frequency_name(permutations: int) -> str:
    """The published name of the file of token counts; it says `test` whatever the split."""
    return f"test_token_freqs_7b_{permutations}perm_EgoExOR.json"


def published_records(
    dataset: Dataset, samples: Sequence[Sample], permutations: int, generator: Random, left_out: LeftOut | None = None
) -> Iterator[Record]:
    """The records of all samples, each with its relations in so many random orders.

    Memory is not told, as published: its prompt speaks of one that is never given.

    Raises:
        UserError: a take or timepoint is not on disk, or is none of EgoExOR.
    """
    for sample, timepoint in on_disk(dataset, samples, left_out):
        surgery, procedure, take = place_of(sample.take_name)
        frame = int(timepoint.frame_id)
        place = {"surgery_type": surgery, "procedure_id": procedure, "take_id": take, "frame_idx": frame}
        for number in range(permutations):
            triplets = list(sample.triplets)
            generator.shuffle(triplets)
            question = human_prompt(dataset.domain.language, None, None, None, None)
            yield {
                "id": f"{sample.take_name}_{frame}_{number}",
                "timepoint": frame,
                "hdf5_indices": {**place, "available_modalities": available(timepoint)},
                "conversations": turns(question, target_text(triplets)),
            }


def available(timepoint: Timepoint) -> list[str]:
    """What a timepoint has, in the published words."""
    screen = ["ultrasound"] if "ultrasound" in timepoint.views else []
    return [*FRAMES, *screen, *(word for name, words in RECORDED.items() if timepoint.has(name) for word in words)]


def place_of(take_name: str) -> tuple[str, int, int]:
    """Surgery, procedure and take of a take's name.

    Raises:
        UserError: it is none of EgoExOR.
    """
    surgery, *numbers = take_name.split("_")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise UserError(f"{take_name}: is no take of EgoExOR (SURGERY_PROCEDURE_TAKE); leave out --form egoexor")
    return surgery, int(numbers[0]), int(numbers[1])
