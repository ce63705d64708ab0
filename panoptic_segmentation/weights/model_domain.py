"""Whether a segmenter fits a domain: trained for its categories, or able to be."""

from __future__ import annotations

from pathlib import Path

from operating_room.domain.domain import Domain
from operating_room.domain.stored import DOMAIN_FILE, require_domain
from operating_room.errors import UserError
from panoptic_segmentation.model.segmenter import SegmenterConfig
from panoptic_segmentation.weights.model_card import has_card, read_card


def require_model_domain(path: Path, domain: Domain) -> None:
    """Before a model file is used.

    Raises:
        UserError: it was trained for another domain, or is damaged.
    """
    require_domain(path, domain, read_card(path).domain if path.suffix == ".safetensors" else None)


def require_start_domain(path: Path, domain: Domain) -> None:
    """Before a training starts from the weights of a file.

    One that tells nothing, alone in its folder, can be a backbone or a segmenter of everyday pictures, whose classes no
    training keeps; a `.safetensors` of the hub is one. A file of ours tells, and so does a published training's folder:
    its classes would be mistaken.

    Raises:
        UserError: it was trained for another domain.
    """
    if has_card(path):
        require_model_domain(path, domain)
    elif any(path.with_name(name).is_file() for name in (DOMAIN_FILE, "config.yaml")):
        require_domain(path, domain)


def require_classes(config: SegmenterConfig, domain: Domain, where: Path | str) -> None:
    """A class for every category; the published models have 124 for 24.

    Args:
        config: of the segmenter.
        domain: whose categories it is to tell apart.
        where: names the source of `config` in the error.

    Raises:
        UserError: there are fewer classes.
    """
    categories = len(domain.labels.categories)
    if config.classes < categories:
        raise UserError(
            f"{where}: MODEL.SEM_SEG_HEAD.NUM_CLASSES is {config.classes}, domain {domain.name} has {categories} "
            f"categories; a segmenter needs {categories} classes or more"
        )
