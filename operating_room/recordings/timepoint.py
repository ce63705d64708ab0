"""One moment of a take, with all that was recorded of it."""

from __future__ import annotations

from collections.abc import Collection as Names
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from operating_room.domain.collection import CAMERA_MODALITIES, Collection, Take
from operating_room.domain.domain import Domain
from operating_room.graphs.scene_graph import sample_id

TRACKER = "tracker"


@dataclass(frozen=True)
class Timepoint:
    """One element of a take's index, with what exists of it by modality; one that it does not have is not in there."""

    take: Take
    frame_id: str  # position in the index, six digits
    time: str  # time stamp, six digits; need not equal the position
    domain: Domain = field(repr=False, compare=False)
    # Modality -> camera, or running number of a mask -> file; the only file of a modality without cameras is under "".
    files: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    records: Mapping[str, Any] = field(default_factory=dict)  # modality -> its element of a file of the whole take
    period: float | None = None  # s between timepoints, where time stamps are no seconds but positions

    @property
    def sample_id(self) -> str:
        """`<take>_<frame>`, the key of prediction files."""
        return sample_id(self.take.sample_name, self.frame_id)

    @property
    def collection(self) -> Collection:
        """The dataset of the take."""
        return self.domain.collection(self.take)

    @property
    def second(self) -> int:
        """Whole seconds since the take began."""
        # A period such as 1/15 s is not exact in binary; 1e-6 s keeps position 15 at second 1.
        return int(self.time) if self.period is None else int(int(self.frame_id) * self.period + 1e-6)

    @property
    def tracker(self) -> dict[str, Any] | None:
        """The tracked tools."""
        return self.records.get(TRACKER)

    def one(self, modality: str) -> Path | None:
        """The file of a modality that has one at most."""
        return self.several(modality).get("")

    def several(self, modality: str) -> Mapping[str, Path]:
        """The files of a modality by camera, or by running number of a mask."""
        return self.files.get(modality, {})

    @property
    def views(self) -> dict[str, Path]:
        """The pictures of all cameras that recorded."""
        return {camera: path for name in CAMERA_MODALITIES for camera, path in self.several(name).items()}

    def files_by_camera(self) -> Iterator[tuple[str, str, Path]]:
        """Modality, camera or number (empty where there is only one) and path of every file of this timepoint."""
        for modality, files in self.files.items():
            for camera, path in files.items():
                yield modality, camera, path

    def has(self, modality: str) -> bool:
        """Whether there is anything of a modality."""
        return bool(self.several(modality)) or modality in self.records

    def without(self, modalities: Names[str]) -> Timepoint:
        """The timepoint without these modalities."""
        if not any(map(self.has, modalities)):
            return self
        files, records = (
            {name: value for name, value in of_kind.items() if name not in modalities}
            for of_kind in (self.files, self.records)
        )
        return replace(self, files=files, records=records)

    def taking(self, modality: str, other: Timepoint) -> Timepoint:
        """The timepoint with what another one has of a modality, in place of its own."""
        return replace(
            self,
            files={**self.files, modality: other.several(modality)} if other.several(modality) else self.files,
            records={**self.records, **{name: value for name, value in other.records.items() if name == modality}},
        )
