"""A made-up room with words of its own, and takes of it."""

from __future__ import annotations

from pathlib import Path

from operating_room.domain.domain import Domain, bundled
from operating_room_simulator.any_room.story import Story, tell

TEXT = """\
name: eye_clinic
language:
  entities: [surgeon, helper, nurse, patient, operating_chair, microscope_stand, instrument_table, laser, lens, blade]
  people: [surgeon, helper, nurse, patient]
  predicates: [incising, implanting, adjusting, handingOver, holding, lookingAt, nextTo, lyingOn]
  levels:
    - [incising, implanting]
    - [adjusting, handingOver, holding, lookingAt]
    - [nextTo, lyingOn]
labels:
  count: 8
  categories:
    - {name: background, color: [0, 0, 0], label: 0}
    - {name: surgeon, color: [40, 90, 220], label: 1}
    - {name: helper, color: [40, 180, 90], label: 2}
    - {name: nurse, color: [230, 150, 30], label: 3}
    - {name: patient, color: [220, 40, 60], label: 4}
    - {name: operating_chair, color: [120, 60, 160], label: 7}
collections:
  - name: EyeClinic
    root: eye_clinic
    layout: house
    cameras:
      - {name: door, modality: room_views}
      - {name: window, modality: room_views}
      - {name: shelf, modality: station_views}
      - {name: surgeon, modality: ego_views}
    modalities: [point_cloud, audio, transcript, gaze, hands, label_masks]
"""
SIZE = (64, 48)


def eye_clinic(folder: Path) -> Domain:
    """The room, from its file."""
    path = folder / "eye.yaml"
    path.write_text(TEXT)
    return Domain.read(path)


def tale(
    domain: Domain, name: str = "eye_1", seed: int = 0, seconds: float | int = 20, period: float | None = None
) -> Story:
    """A take of a domain."""
    return tell(domain, domain.find_take(name), seed, seconds, period)


def egoexor_tale(name: str, seconds: float | int = 4, period: float = 1.0) -> Story:
    """A take of EgoExOR."""
    return tale(bundled("egoexor"), name, 0, seconds, period)
