"""A domain as the text of a file, which reads back equal: the copy that lies beside a model or a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import yaml

from operating_room.domain.collection import Collection
from operating_room.domain.domain import Domain
from operating_room.domain.house import LABEL_MASKS

_NOT_IN_HOUSE = (
    *(
        "folder",
        "folders",
        "frame_keys",
        "index",
        "annotation",
        "files",
        "take_files",
        "labels",
        "calibration",
        "depth",
    ),
)


def domain_text(domain: Domain) -> str:
    """YAML text, every key written out."""
    language = asdict(domain.language)
    labels = asdict(domain.labels)
    for category in labels["categories"]:
        del category["category_id"], category["entity"]  # follow from the order and from the raw names
    content = {
        "name": domain.name,
        "language": language,
        "labels": labels,
        "tasks": [asdict(task) for task in domain.tasks],
        "collections": list(map(_collection, domain.collections)),
    }
    return yaml.safe_dump(_plain(content), sort_keys=False, allow_unicode=True, width=120)


def _collection(collection: Collection) -> dict[str, Any]:
    values = asdict(collection)
    if collection.layout == "house":
        masks = [LABEL_MASKS] if collection.labelled_cameras else []
        values = {key: value for key, value in values.items() if key not in _NOT_IN_HOUSE}
        values["cameras"] = [{"name": camera.name, "modality": camera.modality} for camera in collection.cameras]
        values["modalities"] = [*collection.files, *masks]
    for key in ("calibration", "depth"):
        if not values.get(key, True):
            del values[key]
    for camera in values["cameras"]:
        if camera.get("masks", "") is None:
            del camera["masks"]
    return values


def _plain(value: Any) -> Any:
    """Lists and dictionaries, each of its own, so that YAML has no need of aliases."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
