"""Strangers' weights of the encoder-only segmenter under our names: EoMT, VidEoMT, and DINOv2 alone.

Names of transformers' `EomtForUniversalSegmentation`, `VideomtForUniversalSegmentation` and
`Dinov2WithRegistersModel`, and of the `.pth` files of the authors of VidEoMT as transformers' converter reads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from computing.hub import hub_errors
from operating_room.errors import UserError
from operating_room.files.raw_files import brief
from panoptic_segmentation.model.encoder_only.vit import resized_positions
from panoptic_segmentation.model.segmenter import SegmenterConfig

PATCHES, POSITIONS = "encoder.patches.weight", "encoder.positions"
_BLOCK = r"(?:encoder\.layer|layers|blocks)\.(\d+)\."
_NAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (  # theirs -> ours
    (r"(?:embeddings\.)?cls_token", "encoder.class_token"),
    (r"(?:embeddings\.)?(?:register_tokens|reg_token)", "encoder.registers"),
    (r"(?:embeddings\.)?(?:position_embeddings(?:\.weight)?|pos_embed)", POSITIONS),
    (r"(?:embeddings\.patch_embeddings\.projection|patch_embed\.proj)\.(\w+)", r"encoder.patches.\1"),
    (r"(?:layernorm|norm)\.(\w+)", r"encoder.norm.\1"),
    (_BLOCK + r"(norm\d\.\w+)", r"encoder.layers.\1.\2"),
    (_BLOCK + r"mlp\.(fc\d\.\w+)", r"encoder.layers.\1.\2"),
    (_BLOCK + r"(?:layer_scale|ls)(\d)\.(?:lambda1|gamma)", r"encoder.layers.\1.scale\2"),
    (
        _BLOCK + r"(?:attention|attn)\.(?:out_proj|output\.dense|proj)\.(\w+)",
        r"encoder.layers.\1.attention.out_proj.\2",
    ),
    (
        _BLOCK + r"(?:attention|attn)\.(?:attention\.)?(qkv|q(?=_proj|uery)|k(?=_proj|ey)|v(?=_proj|alue))\w*\.(\w+)",
        r"encoder.layers.\1.attention.\2.\3",
    ),
    (r"(?:query|q)\.weight", "heads.query.weight"),
    (r"query_updater\.(\w+)", r"heads.query_updater.\1"),
    (r"(?:class_predictor|class_head)\.(\w+)", r"heads.class_predictor.\1"),
    (r"(?:upscale_block\.block|upscale)\.(\d+)\.(conv\d)\.(\w+)", r"heads.upscale.\1.\2.\3"),
    (r"(?:upscale_block\.block|upscale)\.(\d+)\.(?:layernorm2d|norm)\.(\w+)", r"heads.upscale.\1.norm.\2"),
    (r"mask_head\.(fc\d)\.(\w+)", r"heads.mask_head.\1.\2"),
    (r"mask_head\.([024])\.(\w+)", lambda match: f"heads.mask_head.fc{int(match[1]) // 2 + 1}.{match[2]}"),
)
# In their files and without meaning here: the state of masked attention, of losses and of DINOv2's own training.
_LEFT_OUT = re.compile(r"attn_mask_probs|criterion\.empty_weight|embeddings\.mask_token|encoder\.pixel_(mean|std)")
_ALWAYS = {POSITIONS: "position embeddings", "encoder.class_token": "class token", "encoder.registers": "registers"}
_LARGEST_PATCH = 64  # px; to resample others takes gigabytes
_AUTHORS = "backbone."  # what the authors' names begin with
_OWNERS = ("tue-mps/", "facebook/")  # of the hub; a mistyped path of here must not be asked for there
_HUB = re.compile(r"[\w.-]+/[\w.-]+(/[\w./-]+)?")
_HUB_FILE = "model.safetensors"


def is_strange(state: Mapping[str, Tensor]) -> bool:
    """Whether a file is one of those that this module translates."""
    return any(name in state for name in ("query.weight", "backbone.q.weight", "embeddings.register_tokens"))


def our_names(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The entries under our names, in our shapes but for the sizes of patches and grid.

    Raises:
        UserError: the file has names that are not known here, as the giant's and DINOv3's.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        short = name.removeprefix(_AUTHORS).removeprefix("encoder.backbone.")
        if _LEFT_OUT.fullmatch(short):
            continue
        for pattern, replacement in _NAMES:
            if match := re.fullmatch(pattern, short):
                renamed[match.expand(replacement) if isinstance(replacement, str) else replacement(match)] = tensor
                break
        else:
            unknown.append(name)
    absent = [told for name, told in _ALWAYS.items() if name not in renamed]
    if unknown or absent:
        named = f"{len(unknown)} of its names are, first {unknown[0]}" if unknown else f"it has no {absent[0]}"
        raise UserError(
            f"{path}: is of a form not known here ({named}); S, B and L of EoMT and VidEoMT on DINOv2, and DINOv2 with "
            "registers, can be loaded"
        )
    for name in [name for name in renamed if re.search(r"\.attention\.q\.\w+$", name)]:
        three = [name.replace(".attention.q.", f".attention.{part}.") for part in "qkv"]
        if missing := [part for part in three if part not in renamed]:
            raise UserError(f"{path}: {missing[0]} is missing, as the file has {name}; copy it again")
        with _fitting_shapes(path):
            renamed[name.replace(".attention.q.", ".attention.qkv.")] = torch.cat([renamed.pop(part) for part in three])
    renamed["encoder.class_token"] = renamed["encoder.class_token"].flatten()
    renamed["encoder.registers"] = renamed["encoder.registers"].squeeze(0)
    with _fitting_shapes(path):
        renamed[POSITIONS] = _square(renamed, path)
    return renamed


@contextmanager
def _fitting_shapes(path: Path) -> Generator[None]:
    """Say of a damaged file in one line that its entries do not go together."""
    try:
        yield
    except (IndexError, RuntimeError) as error:
        raise UserError(
            f"{path}: has entries of shapes that no such model has ({brief(error)}); copy it again"
        ) from error


def _square(state: dict[str, Tensor], path: Path) -> Float[Tensor, "rows columns width"]:
    """Position embeddings as a square; that of the class token, which DINOv2 has first, goes to the token itself."""
    positions = state[POSITIONS].flatten(0, -2)
    side = math.isqrt(len(positions))
    if side * side + 1 == len(positions):
        state["encoder.class_token"] = state["encoder.class_token"] + positions[0]
        positions = positions[1:]
    elif side * side != len(positions) or not side:
        raise UserError(f"{path}: its {len(positions)} position embeddings are of no square picture; choose another")
    return positions.unflatten(0, (side, side))


def fitted(state: Mapping[str, Tensor], config: SegmenterConfig) -> dict[str, Tensor]:
    """Weights for the patches and the grid that a configuration asks for, resampled where theirs are others.

    Those that no model has are left as they are: they fit nothing.
    """
    fitting = dict(state)
    patches, positions = fitting.get(PATCHES), fitting.get(POSITIONS)
    if patches is not None and patches.dim() == 4 and patches.shape[-1] != config.patch:
        height, width = patches.shape[2:]
        if height == width and 0 < width <= _LARGEST_PATCH:
            fitting[PATCHES] = resampled_patches(patches, config.patch)
    if positions is not None and positions.dim() == 3 and positions.numel():
        fitting[POSITIONS] = resized_positions(positions.float(), config.grid)
    return fitting


def resampled_patches(
    weight: Float[Tensor, "width colours size size"], size: int
) -> Float[Tensor, "width colours new_size new_size"]:
    """A patch embedding that says of an enlarged picture what `weight` says of the picture.

    Beyer et al., "FlexiViT": the pseudo-inverse of the enlargement, not the enlargement itself.
    """
    old = weight.shape[-1]
    pixels = torch.eye(old * old, dtype=torch.float64).view(-1, 1, old, old)
    enlarged = F.interpolate(pixels, size=(size, size), mode="bicubic", align_corners=False).flatten(1)
    found = weight.double().flatten(2) @ torch.linalg.pinv(enlarged).T
    return found.unflatten(-1, (size, size)).to(weight.dtype)


def is_on_hub(weights: str) -> bool:
    """Whether MODEL.WEIGHTS is a name of the model hub, OWNER/NAME or OWNER/NAME/FILE, and nothing that is here."""
    return bool(_HUB.fullmatch(weights)) and weights.startswith(_OWNERS) and not Path(weights).exists()


def weights_file(weights: str) -> Path:
    """The file of MODEL.WEIGHTS: a file, the one in a folder of transformers' form, or one that the hub has.

    Raises:
        UserError: the hub cannot be reached or has no such thing.
    """
    if is_on_hub(weights):
        import huggingface_hub

        owner, name, *file = weights.split("/", 2)
        with hub_errors(weights):
            return Path(huggingface_hub.hf_hub_download(f"{owner}/{name}", file[0] if file else _HUB_FILE))
    path = Path(weights)
    return path / _HUB_FILE if path.is_dir() else path
