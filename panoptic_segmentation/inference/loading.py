"""A trained model of segmentation: which file it is, how it is to be used, and on which device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from computing.machine import choose_device
from operating_room.domain.domain import Domain
from operating_room.errors import UserError
from operating_room.work.processes import is_first
from panoptic_segmentation.config.config_keys import ARCHITECTURE_OF
from panoptic_segmentation.config.settings import Config, InferenceSettings, override_test, read_config, read_test
from panoptic_segmentation.inference.device_memory import full_memory_told
from panoptic_segmentation.weights.checkpoints import VideoModel, build_model, load_checkpoint, load_model
from panoptic_segmentation.weights.model_card import ModelCard, read_card
from panoptic_segmentation.weights.model_domain import require_model_domain

_MODEL_FILES = ("model.safetensors", "model_final.pth")  # of a folder, the first that is there


def read_test_config(model: Path, config_file: Path | None, overrides: Sequence[str] = ()) -> Config | None:
    """The configuration for `load`: `config_file`, else the `config.yaml` beside a model that needs one; or None.

    A file of ours says itself of its use and needs none: what lies beside it may be of something else. `overrides`
    (`KEY VALUE ...`) change whichever it is.
    """
    path = model_path(model)
    ours = path.suffix == ".safetensors"
    beside = path.with_name("config.yaml")
    if config_file is None and not ours and beside.is_file():
        config_file = beside
    if config_file is None and overrides:
        if not ours:
            raise UserError(f"{overrides[0]}: {path} has no config.yaml beside it to override; give --config-file")
        card = read_card(path)
        return Config(ARCHITECTURE_OF[card.kind], test=override_test(_own_settings(path, card), overrides, path))
    return None if config_file is None else read_config(config_file, overrides)


def model_path(model: Path) -> Path:
    """The model file in a folder; a file is taken as it is.

    Raises:
        UserError: the folder has none, or there is no such file.
    """
    if model.is_file():
        return model
    if not model.is_dir():
        raise UserError(f"{model}: no such model; give its file, or the folder it was trained into")
    path = next((model / name for name in _MODEL_FILES if (model / name).is_file()), None)
    if path is None:
        raise UserError(f"{model}: holds neither {' nor '.join(_MODEL_FILES)}; give the model file itself")
    return path


def load(
    model: Path, domain: Domain, config: Config | None = None, device: str | None = None
) -> tuple[VideoModel, InferenceSettings]:
    """A trained model on its device, and how it is to be used.

    Args:
        model: a .safetensors of ours, which says itself what it is, a published .pth, or a folder with one of them.
        domain: of the takes; the model must have been trained for it.
        config: of a published checkpoint; its test settings also go before those of a file of ours.
        device: that is wanted, see `choose_device`.

    Raises:
        UserError: no such file or device, a .pth without configuration, a model of another domain or of another kind
            than the configuration, or one that the device has too little memory for.
    """
    path = model_path(model)
    require_model_domain(path, domain)
    if path.suffix == ".safetensors":
        loaded, card = load_model(path, config.kind if config else None)
        settings = config.test if config else _own_settings(path, card)
    elif config is None:
        raise UserError(f"{path}: does not say how it is built; give the configuration it was trained with")
    else:
        loaded, settings = build_model(config.kind, config.segmenter, config.video), config.test
        report = load_checkpoint(path, loaded)
        if is_first():
            print(report)
    chosen = choose_device(device)
    with full_memory_told(chosen, f"hold {path}", "free some of it, or hide the GPU: CUDA_VISIBLE_DEVICES= mmor ..."):
        return loaded.eval().to(chosen), settings


def _own_settings(path: Path, card: ModelCard) -> InferenceSettings:
    return read_test(card.preprocessing, path, "preprocessing")
