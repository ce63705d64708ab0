"""Small EgoExOR files, written by hand in the layouts of the specification (egoexor, sections 1 to 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from operating_room.importers.egoexor.tables import RAW_ENTITIES, RAW_PREDICATES, SOURCES

SIZE = 32  # px
ULTRASOUND = ("assistant", "head_surgeon", "circulator", "or_light", "simstation")
MISS = ("assistant", "head_surgeon", "circulator", "anesthetist", "microscope", *(f"external_{n}" for n in range(1, 6)))
RawTriplet = tuple[str, str, str]  # subject, predicate, object: the order of the files
GRAPH: tuple[RawTriplet, ...] = (
    ("patient", "lyingOn", "operation_table"),
    ("anaesthetist", "closeTo", "operating_table"),
    ("head_surgeon", "checking", "microcope"),
)
TEXT = h5py.string_dtype()
SPLIT_ROW = np.dtype([("surgery_type", TEXT), ("procedure_id", "i4"), ("take_id", "i4"), ("frame_id", "i4")])


@dataclass
class TinyTake:
    """Arrays of one take under the names of the file; None leaves one out."""

    surgery: str = "Ultrasound"
    procedure: int = 1
    number: int = 1
    cameras: Sequence[str] = ULTRASOUND
    arrays: dict[str, np.ndarray | None] = field(default_factory=dict)
    graphs: Mapping[int, Sequence[RawTriplet]] = field(default_factory=dict)
    chunk: int = 2  # frames

    @property
    def name(self) -> str:
        """As the import calls it."""
        return f"{self.surgery}_{self.procedure}_{self.number}"

    @property
    def frames(self) -> int:
        """How many there are."""
        rgb = self.arrays["frames/rgb"]
        assert rgb is not None
        return len(rgb)


def tiny_take(
    surgery: str = "Ultrasound", procedure: int = 1, number: int = 1, frames: int = 5, *, seed: int = 0
) -> TinyTake:
    """A take with all that its surgery has: random pictures, gaze, hands, sound, graphs; in MISS clouds, too."""
    random = np.random.default_rng(seed)
    cameras = ULTRASOUND if surgery == "Ultrasound" else MISS
    people = [SOURCES[name] for name in cameras if name in ("assistant", "head_surgeon", "circulator", "anesthetist")]
    gaze = random.uniform(1, SIZE, (frames, len(people), 3)).astype(np.float32)
    hands = random.uniform(1, SIZE, (frames, len(people), 17)).astype(np.float32)
    gaze[..., 0] = hands[..., 0] = people
    arrays: dict[str, np.ndarray | None] = {
        "frames/rgb": random.integers(1, 256, (frames, len(cameras), SIZE, SIZE, 3), dtype=np.uint8),
        "eye_gaze/coordinates": gaze,
        "eye_gaze_depth/values": random.uniform(0.3, 2, gaze.shape[:2]).astype(np.float32),
        "hand_tracking/positions": hands,
        "audio/waveform": random.uniform(-0.5, 0.5, (frames * 3200, 2)).astype(np.float32),
        "audio/snippets": random.uniform(-0.5, 0.5, (frames, 48_000, 2)).astype(np.float32),
    }
    if surgery == "MISS":
        arrays["point_cloud/coordinates"] = random.uniform(-2, 2, (frames, 7, 3)).astype(np.float32)
        arrays["point_cloud/colors"] = random.uniform(0, 1, (frames, 7, 3)).astype(np.float32)
    return TinyTake(surgery, procedure, number, cameras, arrays, {0: GRAPH, frames - 1: GRAPH[:1]})


def write_legacy(
    path: Path,
    takes: Sequence[TinyTake],
    splits: Mapping[str, Sequence[tuple[str, int, int, int]]] | None = None,
    *,
    entities: Sequence[str] = RAW_ENTITIES,
    predicates: Sequence[str] = RAW_PREDICATES,
    sources: Mapping[str, int] = SOURCES,
) -> Path:
    """Write a file in the layout of the first release.

    Args:
        splits: name in the file (train, validation, test) -> rows of surgery, procedure, take and frame.
    """
    with h5py.File(path, "w") as file:
        for take in takes:
            write_take(file, f"data/{take.surgery}/{take.procedure}/take/{take.number}", take)
        write_tables(file, entities, predicates, sources)
        if splits is not None:
            write_splits(file, splits)
    return path


def write_hq(path: Path, takes: Sequence[TinyTake]) -> Path:
    """Write a file in the layout of the second release."""
    with h5py.File(path, "w") as file:
        for take in takes:
            write_take(file, f"procedures/{take.surgery}/phases/{take.procedure}/takes/{take.number}", take)
        write_tables(file, RAW_ENTITIES, RAW_PREDICATES, SOURCES)
    return path


def write_take(file: h5py.File, group: str, take: TinyTake) -> None:
    """Write what a take has, packed in chunks of some frames."""
    sources = file.create_group(f"{group}/sources")
    sources.attrs["source_count"] = len(take.cameras)
    for index, name in enumerate(take.cameras):
        sources.attrs[f"source_{index}"] = name
    for name, values in take.arrays.items():
        if values is not None:
            chunks = (min(take.chunk, len(values)), *values.shape[1:]) if values.size else None
            file.create_dataset(f"{group}/{name}", data=values, chunks=chunks, compression="gzip" if chunks else None)
    for frame, triplets in take.graphs.items():
        place = f"{group}/annotations/frame_{frame}"
        rows = np.array([list(triplet) for triplet in triplets], dtype=object).reshape(-1, 3)
        file.create_dataset(f"{place}/rel_annotations", data=rows, dtype=TEXT)
        ids = [(RAW_ENTITIES.index(s), RAW_PREDICATES.index(p), RAW_ENTITIES.index(o)) for s, p, o in triplets]
        file[f"{place}/scene_graph"] = np.array(ids, np.float32).reshape(-1, 3)


def write_tables(
    file: h5py.File, entities: Sequence[str], predicates: Sequence[str], sources: Mapping[str, int]
) -> None:
    """Write numbers and names of words and sources."""
    row = np.dtype([("name", TEXT), ("id", "i4")])
    for path, table in (
        ("metadata/vocabulary/entity", {name: number for number, name in enumerate(entities)}),
        ("metadata/vocabulary/relation", {name: number for number, name in enumerate(predicates)}),
        ("metadata/sources/sources", sources),
    ):
        file[path] = np.array(list(table.items()), dtype=row)


def write_splits(file: h5py.File, splits: Mapping[str, Sequence[tuple[str, int, int, int]]]) -> None:
    """Write the frames of each split."""
    for name, rows in splits.items():
        file[f"splits/{name}"] = np.array(list(rows), dtype=SPLIT_ROW)


def split_rows(take: TinyTake) -> list[tuple[str, int, int, int]]:
    """A row for each frame of a take."""
    return [(take.surgery, take.procedure, take.number, frame) for frame in range(take.frames)]


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
