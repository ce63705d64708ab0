"""First contact with the real files: what the published descriptions leave open, as the files at hand answer it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

from operating_room.importers.egoexor.source import Recordings
from operating_room.importers.egoexor.tables import (
    EXPECTED_SPLITS,
    EXPECTED_TAKES,
    EXTERIOR,
    FRAMES,
    RATES,
)
from operating_room.importers.egoexor.takes import NO_NUMBER, Facts
from operating_room.importers.egoexor.words import language

TOLERANCE = 0.02  # by which a rate may differ from another one and still be it
_SHOWN = 6  # names in a line


def checklist(recordings: Recordings, takes: Sequence[Facts]) -> list[str]:
    """What the files are, one line for each point.

    Args:
        recordings: the files.
        takes: those of their takes that nothing is wrong with.
    """
    lines = [
        f"release: {recordings.release}, {len(recordings.files)} files, {len(recordings.takes)} takes",
        *_takes_by_file(recordings),
        *(f"cameras: {', '.join(cameras)}: {told}" for cameras, told in _grouped(takes, lambda take: take.cameras)),
        *(f"pictures: {w} x {h} px: {told}" for (w, h), told in _grouped(takes, lambda take: take.size)),
        _channels(recordings),
        *(f"point clouds: {form}: {told}" for form, told in _grouped(takes, _clouds)),
        *(f"gaze and hands: {form}: {told}" for form, told in _grouped(takes, _rows)),
        *(f"audio: {form}: {told}" for form, told in _grouped(takes, _audio)),
        *_rates(takes),
        *_graphs(takes),
        *_splits(recordings, takes),
        *(f"arrays that are not imported: {others}: {told}" for others, told in _grouped(takes, _others) if others),
    ]
    without = [take.take.name for take in takes if not set(take.cameras) & set(EXTERIOR)]
    if without:
        lines.append(f"no exterior camera: {_names(without)}")
    return lines


def rate(take: Facts) -> float | None:
    """Frames per second by the length of the sound; None without sound."""
    return take.frames / take.sound_s if take.sound_s else None


def is_rate(found: float, expected: float) -> bool:
    """Whether two rates are the same but for the ends of the sound."""
    return abs(found / expected - 1) <= TOLERANCE


def _takes_by_file(recordings: Recordings) -> Iterator[str]:
    for path in recordings.files:
        yield f"takes: {path.name}: {_names([take.name for take in recordings.takes if take.file == path])}"


def _channels(recordings: Recordings) -> str:
    who = (
        "no file says it; others have found"
        if recordings.release == "legacy"
        else "unknown; taken as in the first release"
    )
    return f"order of colours: {who}: external cameras red first, all others blue first; look at the pictures"


def _clouds(take: Facts) -> str:
    if take.colors_to is None:
        return "none"
    return f"{take.shapes['cloud'][1]} points in each frame, colours to {take.colors_to}"


def _rows(take: Facts) -> str:
    def told(name: str) -> str:
        if name not in take.rows:
            return f"no {name}"
        numbers = ["NaN" if number == NO_NUMBER else str(number) for number in take.rows[name]]
        return f"{name} of sources {', '.join(numbers)}"

    reach = ""
    if take.gaze_to is not None:
        x, y = take.gaze_to
        reach = f", to {x:.0f}, {y:.0f} px of {take.size[0]}, {take.size[1]}"
        reach += "" if "gaze_depth" in take.shapes else ", without depth"
    return f"{told('gaze')}{reach}; {told('hands')}"


def _audio(take: Facts) -> str:
    found = [name for name in ("waveform", "snippets") if name in take.shapes]
    return " and ".join(found) or "none"


def _rates(takes: Sequence[Facts]) -> Iterator[str]:
    for told_rate, told in _grouped(takes, lambda take: None if (r := rate(take)) is None else f"{r:.2f}"):
        yield f"frames per second by the sound: {told_rate or 'no sound to tell'}: {told}"
    total = sum(take.frames for take in takes)
    of_all = " (documented are {}, counted by others {})".format(*FRAMES) if len(takes) >= len(EXPECTED_TAKES) else ""
    yield f"frames: {total} in {len(takes)} takes{of_all}"


def _graphs(takes: Sequence[Facts]) -> Iterator[str]:
    frames, annotated = sum(take.frames for take in takes), sum(take.annotated for take in takes)
    share = f"{annotated / frames:.1%}" if frames else "none"
    each = f", {sum(take.triplets for take in takes) / annotated:.2f} triplets each" if annotated else ""
    yield f"scene graphs: {annotated} of {frames} frames ({share}){each}"
    if annotated:
        entities, predicates = (len(frozenset().union(*(take.words[kind] for take in takes))) for kind in (0, 1))
        known = language()
        told = f"{entities} entities of {len(known.entities)}, {predicates} predicates of {len(known.predicates)}"
        yield f"words in scene graphs: {told}"
    for orders, told in _grouped([take for take in takes if take.annotated], lambda take: take.graph_orders):
        yield f"numbers in scene_graph: {' or '.join(orders)}: {told}"


def _splits(recordings: Recordings, takes: Sequence[Facts]) -> Iterator[str]:
    splits = recordings.splits
    if not splits:
        yield "splits: none in the files or beside; takes are imported without"
        return
    counts = defaultdict(list)
    for name, split in splits.items():
        counts[split].append(name)
    yield "splits: " + ", ".join(f"{len(counts[split])} {split}" for split in ("train", "val", "test"))
    here = {take.take.name: take.frames for take in takes}
    if missing := sorted(splits.keys() - {take.name for take in recordings.takes}):
        yield f"splits name takes that are not in these files: {_names(missing)}"
    if left := [name for name in here if name not in splits]:
        yield f"takes without a split: {_names(left)}"
    if other := [name for name, split in splits.items() if EXPECTED_SPLITS.get(name, split) != split]:
        yield f"takes in another split than others have reconstructed: {_names(sorted(other))}"
    if unheard := sorted(splits.keys() - EXPECTED_SPLITS.keys()):
        yield f"takes that are in no published list: {_names(unheard)}"
    for name, frames in here.items():
        if name in splits and recordings.split_frames[name] != frames:
            yield f"splits list {recordings.split_frames[name]} of the {frames} frames of {name}; all are imported"


def _others(take: Facts) -> str:
    return "; ".join(take.others)


def _grouped(takes: Iterable[Facts], of: Callable[[Facts], Hashable]) -> list[tuple[Any, str]]:
    """Each value with the names of the takes that have it."""
    groups: defaultdict[Hashable, list[str]] = defaultdict(list)
    for take in takes:
        groups[of(take)].append(take.take.name)
    return [(value, _names(names)) for value, names in groups.items()]


def _names(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + rest


def rate_notes(takes: Sequence[Facts], period: float | None) -> list[str]:
    """Takes whose sound says another rate than is known of the files, or than was asked for."""
    notes = []
    for take in takes:
        found = rate(take)
        if found is None:
            continue
        if not any(is_rate(found, known) for known in RATES):
            notes.append(f"{take.take.name}: {found:.2f} frames per second by its sound, neither 15 nor 6")
        if period is not None and not is_rate(found, 1 / period):
            notes.append(
                f"{take.take.name}: {found:.2f} frames per second by its sound, {1 / period:.2f} as asked for; "
                "the sound is believed"
            )
    return notes
