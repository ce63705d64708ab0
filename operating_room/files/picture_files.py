"""Picture files to pixels, and pixels to files: camera pictures, label masks, pictures of ids. JPEG and PNG.

What cannot be read without doubt is refused by name: labels in a lossy file, labels beside colours, labels above 255;
pictures of 16 bits, of which nobody says how many are in use; an orientation other than upright, since masks may have
been drawn on the picture as it is stored or as viewers turn it. Transparency is left out: neither cameras nor labels
have any.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8, UInt32

from operating_room.errors import UserError
from operating_room.files.atomic import atomic_path
from operating_room.files.png import is_png, png_form, require_rows
from operating_room.files.raw_files import again, brief, read_bytes

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 64_000_000  # far above any camera; a larger size in a header is damage
MAX_SIDE = 16_384  # px: models see pictures padded to squares, and a line of some kB would become gigabytes
_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, ArithmeticError),
    *(LookupError, TypeError, AttributeError, MemoryError, RuntimeError),
)  # what Pillow raises on damaged JPEG and PNG files
_ORIENTATION = 0x0112  # tag of EXIF
_UPRIGHT = 1
# Counts up whenever a file gives other pixels, or is refused: what was made of pictures before is made again.
READING = 2
_ZEROS = 16  # bytes at an end that are no picture any more: copies that broke off leave them
_GREY_BELOW_8_BITS = {2: 85, 4: 17}  # Pillow spreads such grey over 0..255 by these factors


def read_picture(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """A camera picture of 8 bits a channel as RGB.

    Raises:
        UserError: see `open_picture`.
    """
    return np.asarray(open_picture(path))


def open_picture(path: Path) -> Image.Image:
    """A camera picture of 8 bits a channel as Pillow's RGB, decoded: for who resizes it, without a copy of all pixels.

    Raises:
        UserError: it is missing, damaged, no JPEG or PNG, has 16 bits a channel, or is stored turned.
    """
    data = read_bytes(path)
    try:
        image = _open(data)
        _refuse_turned(path, image)
        if is_png(data) and png_form(data)[0] == 16:
            raise UserError(f"{path}: has 16 bits a channel; save it with 8, as bright as it is to be seen")
        return image if image.mode == "RGB" else image.convert("RGB")
    except _ERRORS as error:
        raise _bad(path, error) from error


def read_small_picture(path: Path, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """A camera picture as RGB, at most `width` px wide, for people to look at: a JPEG is decoded no larger than needed.

    Raises:
        UserError: see `read_picture`.
    """
    from PIL import Image

    data = read_bytes(path)
    if is_png(data):
        image = Image.fromarray(read_picture(path))
    else:
        try:
            image = _open(data, load=False)
            _refuse_turned(path, image)
            image.draft("RGB", (width, 1))
            image = image.convert("RGB")
        except _ERRORS as error:
            raise _bad(path, error) from error
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BOX)
    return np.asarray(image)


def read_label_mask(path: Path) -> UInt8[np.ndarray, "height width"]:
    """A label mask: one label per pixel, as stored in 1 to 16 bits of grey or as place in a palette.

    A coloured file is accepted if its red, green and blue are equal everywhere.

    Raises:
        UserError: it is missing, damaged, no PNG, stored turned, or a class-colour picture, or a label is above 255.
    """
    data = read_bytes(path)
    try:
        image = _open(data)
        if not is_png(data):
            raise ValueError("a JPEG, which changes labels; export labels as PNG")
        _refuse_turned(path, image)
        depth, _ = png_form(data)
        pixels = np.asarray(image)
        if image.mode == "P" and _is_picture_of_greys(image, pixels):
            raise ValueError("its palette is of greys, and whether those or their places are labels cannot be told")
    except _ERRORS as error:
        raise _bad(path, error) from error
    if (image.mode in ("RGB", "RGBA") and (pixels[..., :1] == pixels[..., 1:3]).all()) or image.mode == "LA":
        pixels = pixels[..., 0]
    elif image.mode in ("RGB", "RGBA"):
        raise UserError(
            f"{path}: is a {image.mode} picture, a label mask has one 8-bit channel; export labels, not colours"
        )
    if image.mode == "L" and depth in _GREY_BELOW_8_BITS:
        pixels = pixels // _GREY_BELOW_8_BITS[depth]
    if depth == 16 and not image.mode.startswith("I"):
        raise UserError(f"{path}: has 16 bits in several channels; export labels in one channel of 8 bits")
    if pixels.max(initial=0) > 255:
        raise UserError(
            f"{path}: has the label {pixels.max()}, and none is above 255; a label mask has one 8-bit channel"
        )
    return np.ascontiguousarray(pixels.astype(np.uint8))


def read_ids(path: Path) -> UInt32[np.ndarray, "height width"]:
    """R + 256 G + 65536 B of each pixel of a PNG: the four bytes of a pixel are read as one number.

    The values of a grey picture are the ids themselves. For files that this software writes, and published ones.

    Raises:
        UserError: it is missing, damaged, no PNG, or has more than 8 bits a channel.
    """
    data = read_bytes(path)
    try:
        image = _open(data)
        if not is_png(data) or png_form(data)[0] != 8:
            raise ValueError("ids need a PNG of 8 bits a channel")
        if image.mode == "L":
            return np.asarray(image).astype(np.uint32)
        if image.mode == "LA":
            return np.asarray(image)[..., 0].astype(np.uint32)
        if image.mode not in ("RGB", "RGBA"):
            image = image.convert("RGB")
        packed = image.tobytes("raw", "RGBX" if image.mode == "RGB" else "RGBA")
    except _ERRORS as error:
        raise _bad(path, error) from error
    return np.frombuffer(packed, "<u4").reshape(image.height, image.width) & np.uint32((1 << 24) - 1)


def read_depth(path: Path) -> Float32[np.ndarray, "height width"]:
    """A depth picture (TIFF or PNG of 16 bits, in mm) in m; NaN where nothing was measured.

    Raises:
        UserError: it is missing, damaged, neither of both, or has another number of bits or channels.
    """
    from PIL import Image

    data = read_bytes(path)
    try:
        image = Image.open(io.BytesIO(data), formats=("TIFF", "PNG"))
        if not 0 < image.width * image.height <= MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} px")
        if not image.mode.startswith("I;16"):
            raise ValueError(f"mode {image.mode}, expected one channel of 16 bits, in mm")
        if max((part[1][3] for part in image.tile if part[1]), default=0) < image.height:
            raise ValueError("cut off: rows of it are nowhere")  # of a TIFF; they would be zeros
        _refuse_turned(path, image)  # before the pixels: of a TIFF these would be turned with them
        if is_png(data):
            png_form(data)  # compares checksums
        image.load()
        _require_rows(data, image)
        millimetres = np.asarray(image)
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{path}: is no TIFF or PNG; {again(path)}") from error
    except (*_ERRORS, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path}: is not a readable depth picture ({brief(error)}); {again(path)}") from error
    return np.where(millimetres > 0, millimetres / np.float32(1000), np.float32(np.nan)).astype(np.float32)


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height in px of a picture as `read_picture` gives it, without its pixels.

    Raises:
        UserError: it is missing, no JPEG or PNG, or stored turned.
    """
    data = read_bytes(path)
    try:
        image = _open(data, load=False)
        _refuse_turned(path, image)
        return image.width, image.height
    except _ERRORS as error:
        raise _bad(path, error) from error


def save_picture(path: Path, picture: np.ndarray, **options: Any) -> None:
    """Write pixels atomically in the form that the name of the file says; `options` are of Pillow's writer of it."""
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, **options)


def check_picture(path: Path) -> None:
    """Find out whether `read_picture` could read a picture, more cheaply: a JPEG is decoded at an eighth of its size.

    Raises:
        UserError: it could not.
    """
    data = read_bytes(path)
    if is_png(data):
        read_picture(path)
        return
    try:
        image = _open(data, load=False)
        image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
        _refuse_turned(path, image)
    except _ERRORS as error:
        raise _bad(path, error) from error


def _open(data: bytes, load: bool = True) -> Image.Image:
    """Decode a JPEG or PNG; everything that Pillow raises is in _ERRORS."""
    from PIL import Image

    if load and is_png(data):
        png_form(data)
    if data.endswith(bytes(_ZEROS)) and data.startswith(b"\xff\xd8") and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ValueError("cut off: zeros are in the place of its end")  # libjpeg may read them as grey
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except Image.UnidentifiedImageError:
        raise ValueError("no JPEG or PNG inside") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(error) from error
    if not 0 < image.width * image.height <= MAX_PIXELS or max(image.size) > MAX_SIDE:
        raise ValueError(f"{image.width} x {image.height} px")
    if load:
        image.load()
        _require_rows(data, image)
    return image


def _require_rows(data: bytes, image: Image.Image) -> None:
    """Rows of zeros at the end of a decoded PNG must be its own, and not those that are missing."""
    last = image.crop((0, image.height - 1, image.width, image.height))
    if is_png(data) and ("interlace" in image.info or not any(last.tobytes())):
        require_rows(data)


def _refuse_turned(path: Path, image: Image.Image) -> None:
    """Only upright pictures (EXIF orientation 1, or none that EXIF knows) are the same to everybody.

    Raises:
        UserError: it is not.
    """
    orientation = image.getexif().get(_ORIENTATION, _UPRIGHT)
    if orientation in range(2, 9):
        raise UserError(
            f"{path}: is stored turned (EXIF orientation {orientation}), and whether its masks are cannot be told; "
            "turn the pixels themselves and remove the orientation"
        )


def _is_picture_of_greys(image: Image.Image, places: UInt8[np.ndarray, "height width"]) -> bool:
    """Whether a palette says other greys than its places are: what writers that pack tightly make of a grey picture."""
    colors = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    palette, used = np.zeros((256, 3), np.uint8), np.unique(places)  # the file may have fewer colours than places
    palette[: len(colors)] = colors
    return bool((palette == palette[:, :1]).all() and (palette[used, 0] != used).any())


def _bad(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path}: is not a readable JPEG or PNG picture ({brief(error)}); {again(path)}")
