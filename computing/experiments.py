"""The experiment files that come with the software: `configs/` of a checkout, a part of the package once installed."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).parents[1]
CONFIGS = _ROOT / "mmor" / "configs" if (_ROOT / "mmor" / "configs").is_dir() else _ROOT / "configs"
_PUBLISHED_FOLDER, _FOLDER = "dvis_Plus", "panoptic"  # the published name of the folder of stage 1


def find_experiment(path: Path) -> Path:
    """An experiment file: `path` if there is one, else ours of that name, else `path`, which its reader will refuse.

    So `configs/panoptic/HybridOR/CTVIS_r50.yaml`, and the published `configs/dvis_Plus/HybridOR/CTVIS_r50.yaml`, are
    found from any folder.
    """
    parts = [_FOLDER if part == _PUBLISHED_FOLDER else part for part in path.parts]
    if path.exists() or CONFIGS.name not in parts[:-1]:
        return path
    ours = CONFIGS.joinpath(*parts[parts.index(CONFIGS.name) + 1 :])
    return ours if ours.is_file() else path
