"""The text files and the recording of a simulated take, in the published layout.

Data specification, sections 1, 3, 9 and 10.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from operating_room.files.atomic import write_bytes, write_json, write_text
from operating_room.graphs.scene_graph import Triplet
from operating_room_simulator.sensors import signals, sound
from operating_room_simulator.story.senses import told
from operating_room_simulator.story.steps import PEOPLE, playbook_of
from operating_room_simulator.story.story import Surgery

_BLOCK = 90_000  # frame numbers that each take of a shared folder has for itself


def start_second(surgery: Surgery) -> int:
    """When the first moment happens, in s from the start of the take's recording: up to 3 s later in MM-OR."""
    if not playbook_of(surgery.take).multimodal:
        return 0
    return zlib.crc32(f"start {surgery.take.name} {surgery.seed}".encode()) % 4


def time_stamp(surgery: Surgery, second: int) -> str:
    """The six-digit time stamp of a moment."""
    return f"{start_second(surgery) + second:06d}"


def frame_numbers(take: Take, second: int) -> dict[str, str]:
    """The frame numbers of a moment, by the keys of the index file; cameras count at their own pace."""
    if not playbook_of(take).multimodal:
        cameras = mmor().collection(take).cameras_of("room_views")
        colors = {camera.frame: f"{3 * second + 10 * int(camera.name) + 500:06d}" for camera in cameras}
        return {"pcd": f"{second + 400:06d}", **colors}
    mates = [other for other in mmor().collection(take).published if other.folder == take.folder]
    base = _BLOCK * mates.index(take) if take in mates else 0
    return {
        "azure": f"{base + 100 + 3 * second:06d}",
        "simstation": f"{base + 200 + 2 * second:06d}",
        "trackercam": f"{base + 300 + second:06d}",
    }


def write_records(root: Path, surgery: Surgery, with_tracker: bool = True) -> None:
    """Write what is not made once per second from pictures: labels, tracker, transcript, sound; all but the index."""
    take, moments = surgery.take, surgery.moments
    collection = mmor().collection(take)

    def path(name: str) -> Path:
        return root / collection.path(name, take)

    for moment in moments:
        raw = raw_labels(take, moment.triplets, moment.people)
        labels = collection.annotation_files(take, f"{moment.second:06d}")[int(_shares_folder(take))]
        write_json(root / labels, raw)
    if playbook_of(take).multimodal:
        start = start_second(surgery)
        said = signals.subtitles(told(surgery, "speech"), start)
        if said:  # a few seconds may be silent
            write_text(path("subtitles"), signals.srt_text(said))
        _write_recording(path("recording"), told(surgery, "sound"), said, start)
        if with_tracker:
            write_json(path("tracks"), signals.tracker_track(told(surgery, "tracker"), start))
        seconds = {str(start + moment.second): frame_numbers(take, moment.second) for moment in moments}
        write_json(path("seconds"), {"timestamps": seconds})
        frame_ids = [f"{moment.second:06d}" for moment in moments]
        actions = [moment.next_action for moment in moments]
        write_json(path("next_action"), dict(zip(frame_ids, actions, strict=True)))
        phases = [moment.robot_phase for moment in moments]
        write_json(path("robot_phase"), dict(zip(frame_ids, phases, strict=True)))
        breaches = [moment.breaches for moment in moments]
        write_json(path("sterility_breach"), dict(zip(frame_ids, breaches, strict=True)))


def write_index(root: Path, surgery: Surgery) -> None:
    """Write the list of timepoints, without which nobody takes the files of a take for one: it is written last."""
    take, moments = surgery.take, surgery.moments
    index = [[time_stamp(surgery, moment.second), frame_numbers(take, moment.second)] for moment in moments]
    write_json(index_path(root, take), index)


def index_path(root: Path, take: Take) -> Path:
    """Where the list of timepoints of a take is written."""
    return root / mmor().collection(take).index_files(take)[0 if _shares_folder(take) else 1]


def raw_labels(take: Take, triplets: Sequence[Triplet], people: Sequence[str]) -> dict[str, Any]:
    """A raw annotation that label conversion turns into `triplets`: relations as subject, predicate, object."""
    if playbook_of(take).multimodal:
        short = {entity: raw for raw, entity in mmor().language.raw_names.items()}
        relations = [[short.get(s, s), predicate, short.get(o, o)] for s, o, predicate in triplets]
        return {"rel_annotations": relations}
    humans = {person: f"human_{i}" for i, person in enumerate(p for p in people if p != "patient")}
    relations = [
        [_raw_entity(s, humans), _raw_predicate(p), _raw_entity(o, humans), "righthand" if s in humans else "", ""]
        for s, o, p in triplets
    ]
    roles = {human: _raw_role(person) for person, human in humans.items()}
    return {"rel_annotations": relations, "human_name_annotations": roles}


def _raw_entity(entity: str, humans: dict[str, str]) -> str:
    return humans.get(entity, entity.capitalize() if entity in PEOPLE else entity)


def _raw_predicate(predicate: str) -> str:
    return "Operating" if predicate == "manipulating" else predicate[0].upper() + predicate[1:]


def _raw_role(person: str) -> str:
    return "circulating-nurse" if person == "circulator" else person.replace("_", "-")


def _write_recording(path: Path, surgery: Surgery, said: Sequence[signals.Subtitle], start: int) -> None:
    import soundfile

    packed = io.BytesIO()  # libsndfile writes its last block without a word where the disk is full
    soundfile.write(packed, sound.waveform(surgery, said, start), sound.RATE, format="MP3")
    write_bytes(path, packed.getvalue())


def _shares_folder(take: Take) -> bool:
    return playbook_of(take).multimodal and take.folder != take.name
