"""Bytes to values: JSON, pictures, label masks, point clouds, subtitles, sound.

Every reader raises UserError for a file that is missing, empty, truncated, of another type or encoding, or a folder:
one line that names the file and says what to do. Formats: data specification, sections 1, 7.2 and 9.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8, UInt32

from operating_room.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from soundfile import SoundFile

_COPY_AGAIN = "copy it again from the dataset archive"
_MAX_PIXELS = 64_000_000  # far above any camera; a larger size in a header is damage
MAX_POINTS = 200_000  # of a cloud
MAX_EXTENT = 600.0  # m; more than 2^16 voxels of 1 cm have no place on a curve
_MP3_FRAME = 1152  # samples; encoders disagree by less than a frame on how long a recording is
_MAX_LZF_RATIO = 100  # LZF cannot compress better than about 1:88
_PNG_END = b"IEND\xaeB`\x82"
_PICTURE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error),
    *(IndexError, KeyError, TypeError, OverflowError, MemoryError),
)  # what Pillow raises on damaged JPEG and PNG files
_PACKED_COLORS = ("rgb", "rgba")
_CLOUD_ERRORS = (ValueError, KeyError, IndexError, TypeError, struct.error, RuntimeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Subtitle:
    """One subtitle of a transcript; times in seconds from the start of the take, to the millisecond."""

    start_s: float
    end_s: float
    text: str


def read_bytes(path: Path) -> bytes:
    """The content of a file that must not be empty.

    Raises:
        UserError: missing, a folder, unreadable or empty.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {_COPY_AGAIN} or correct the path") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder where a file is expected; remove it and {_COPY_AGAIN}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"{path}: cannot be read ({_brief(error)}); check permissions and the disk") from error
    if not data:
        raise UserError(f"{path}: is empty; {_COPY_AGAIN}")
    return data


def read_json(path: Path) -> Any:
    """The value of a UTF-8 JSON file (with or without byte order mark); a name that ends in .gz is unpacked.

    Raises:
        UserError: see the module; also for an object that holds a name twice, since one value would be lost silently,
            and for NaN and Infinity, which JSON does not have though Python writes them.
    """
    data = read_bytes(path)
    try:
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique_names, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8 JSON") from error
    except RecursionError as error:
        raise UserError(f"{path}: is nested too deeply for JSON of this dataset; {_COPY_AGAIN}") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is not valid JSON ({_brief(error)}); {_COPY_AGAIN} or mend it") from error


def parse_yaml(text: str | bytes, where: str) -> Any:
    """The value of YAML text; `where` names its source in errors.

    Raises:
        UserError: it is no YAML.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: is not valid YAML ({_brief(error)})") from error


def read_picture(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """A JPEG or PNG as RGB."""
    data = read_bytes(path)
    try:
        return np.asarray(_open_picture(data).convert("RGB"))
    except _PICTURE_ERRORS as error:
        raise _bad_picture(path, error) from error


def read_label_mask(path: Path) -> UInt8[np.ndarray, "height width"]:
    """A label mask: one label per pixel. A coloured file is accepted if its red, green and blue are equal everywhere.

    Raises:
        UserError: see the module; also for a class-colour picture or more than 8 bits per pixel.
    """
    data = read_bytes(path)
    try:
        image = _open_picture(data)
        pixels = np.asarray(image)
    except _PICTURE_ERRORS as error:
        raise _bad_picture(path, error) from error
    if image.mode in ("RGB", "RGBA") and (pixels[..., :1] == pixels[..., 1:3]).all():
        pixels = pixels[..., 0]
    elif image.mode not in ("L", "P"):
        raise UserError(
            f"{path}: is a {image.mode} picture, a label mask has one 8-bit channel; export labels, not colours"
        )
    return np.ascontiguousarray(pixels)


def check_picture(path: Path) -> None:
    """Find out whether a picture can be decoded to its end, more cheaply than by decoding it.

    A PNG is checked by its checksums, a JPEG decoded at an eighth of its size.

    Raises:
        UserError: it cannot.
    """
    data = read_bytes(path)
    try:
        image = _open_picture(data, load=False)
        if image.format == "PNG":
            image.verify()
        else:
            image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except _PICTURE_ERRORS as error:
        raise _bad_picture(path, error) from error


def read_point_cloud(path: Path) -> Float32[np.ndarray, "points 6"]:
    """A coloured .pcd (ascii, binary or compressed) as x, y, z in m and r, g, b in 0..1; files hold mm.

    Colours are one packed `rgb` (or `rgba`) field or the three fields r, g, b. Points that are no number are left out:
    depth cameras write NaN where nothing came back.

    Raises:
        UserError: see the module; also for no points or too many, and for coordinates too far apart.
    """
    data = read_bytes(path)
    _check_cloud(path, data)
    from pypcd4 import PointCloud

    try:
        points = PointCloud.from_fileobj(io.BufferedReader(io.BytesIO(data))).pc_data.reshape(-1)
    except _CLOUD_ERRORS as error:
        raise _bad_cloud(path, error) from error
    packed = [name for name in points.dtype.names or () if name in _PACKED_COLORS]
    if packed:
        colors = _unpack_colors(points[packed[0]])
    else:
        colors = np.stack([points[name] for name in "rgb"], axis=1)
    metres = np.stack([points[name] for name in "xyz"], axis=1).astype(np.float32) / 1000
    cloud = np.concatenate([metres, colors.astype(np.float32) / 255], axis=1)
    cloud = cloud[np.isfinite(cloud).all(axis=1)]
    if not 0 < len(cloud) <= MAX_POINTS:
        lost = f", {len(points) - len(cloud)} more without depth" if len(cloud) < len(points) else ""
        raise UserError(
            f"{path}: has {len(cloud)} points{lost}, expected 1 to {MAX_POINTS}; thin it out or leave it out"
        )
    extent = float(np.ptp(cloud[:, :3], axis=0).max())
    if extent > MAX_EXTENT:
        raise UserError(f"{path}: is {extent:.0f} m wide, expected {MAX_EXTENT} at most; files hold millimetres")
    return cloud


def read_subtitles(path: Path) -> list[Subtitle]:
    """The subtitles of an .srt in file order; line breaks and tags stay, white space at line ends goes.

    Raises:
        UserError: see the module; also for a broken time or a file without any subtitle.
    """
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); save the subtitles as UTF-8") from error
    lines = [line.rstrip() for line in re.split(r"\r\n|\n|\r", text)]
    for number, line in enumerate(lines, 1):
        if "-->" in line and not _are_times(line):
            raise UserError(
                f"{path}: line {number} has a broken time ({line[:60]!r}); write 00:00:01,500 --> 00:00:02,250"
            )
    import srt

    cues = list(srt.parse("\n".join(lines), ignore_errors=True))
    if not cues:
        raise UserError(f"{path}: holds no subtitle; {_COPY_AGAIN} or remove it")
    return [Subtitle(cue.start.total_seconds(), cue.end.total_seconds(), cue.content) for cue in cues]


_TIME = r"\s*(\d{1,9}):([0-5]?\d):([0-5]?\d)[,.:](\d{3})\s*"
_TIMES = re.compile(f"{_TIME}-->{_TIME}")


def _are_times(line: str) -> bool:
    """Whether a line is the start and a not earlier end; milliseconds need three digits, or 1.5 s would be 1.005 s."""
    times = _TIMES.match(line)
    return times is not None and [int(n) for n in times.groups()[:4]] <= [int(n) for n in times.groups()[4:]]


def read_audio(path: Path) -> tuple[Float32[np.ndarray, "samples channels"], int]:
    """The samples of a sound file in -1..1, and the sampling rate in Hz.

    Raises:
        UserError: see the module; also for a file that ends before the length it states, or holds no sample.
    """
    with _open_sound(path) as file:
        blocks = list(_blocks(file))
        _require_length(path, sum(map(len, blocks)), file)
        return np.concatenate(blocks), file.samplerate


def check_audio(path: Path) -> None:
    """Find out whether a sound file has the length it states, without holding its samples.

    Raises:
        UserError: it has not, or is no sound file.
    """
    with _open_sound(path) as file:
        _require_length(path, sum(map(len, _blocks(file))), file)


def _blocks(file: SoundFile) -> Iterator[Float32[np.ndarray, "samples channels"]]:
    """The samples in pieces, since a damaged header may state any length."""
    while len(block := file.read(1 << 20, dtype="float32", always_2d=True)):
        yield block


@contextmanager
def _open_sound(path: Path) -> Generator[SoundFile]:
    data = read_bytes(path)
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            yield file
    except soundfile.SoundFileError as error:  # its message names an address in memory, and the wrong reason
        raise UserError(f"{path}: is no mp3 or other known sound file; {_COPY_AGAIN}") from error
    except (ValueError, TypeError, MemoryError) as error:
        raise UserError(f"{path}: is not a readable sound file ({_brief(error)}); {_COPY_AGAIN}") from error


def _require_length(path: Path, found: int, file: SoundFile) -> None:
    if found == 0:
        raise UserError(f"{path}: holds no sound; {_COPY_AGAIN}")
    if file.frames - found > _MP3_FRAME:
        found_s, stated_s = found / file.samplerate, file.frames / file.samplerate
        raise UserError(f"{path}: is cut off after {found_s:.2f} of {stated_s:.2f} s; {_COPY_AGAIN}")


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands twice in one object")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _open_picture(data: bytes, load: bool = True) -> Image.Image:
    """Decode a JPEG or PNG; everything that Pillow raises is in _PICTURE_ERRORS."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except Image.UnidentifiedImageError:
        raise ValueError("no JPEG or PNG inside") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(error) from error
    if image.width * image.height > _MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} px")
    if image.format == "PNG" and _PNG_END not in data:  # Pillow is content once it has all pixels
        raise ValueError("truncated")
    if load:
        image.load()
    return image


def _bad_picture(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path}: is not a readable JPEG or PNG picture ({_brief(error)}); {_COPY_AGAIN}")


def _check_cloud(path: Path, data: bytes) -> None:
    """Check the fields of a .pcd, and its stated against its actual size before anything is allocated."""
    try:
        fields = _cloud_fields(data)
    except _CLOUD_ERRORS as error:
        raise _bad_cloud(path, error) from error
    if missing := set("xyz") - fields.keys():
        raise UserError(f"{path}: point cloud without field {', '.join(sorted(missing))}; {_COPY_AGAIN}")
    if not any(fields.get(name) == 4 for name in _PACKED_COLORS) and not set("rgb") <= fields.keys():
        raise UserError(f"{path}: point cloud without colours; it needs a 4-byte field rgb or the fields r, g, b")


def _cloud_fields(data: bytes) -> dict[str, int]:
    """Size in bytes of each field of a .pcd; raises one of _CLOUD_ERRORS if header and size do not fit."""
    from pypcd4.pypcd4 import Encoding, MetaData

    header, mark, rest = data.partition(b"\nDATA ")
    encoding, _, body = rest.partition(b"\n")
    if not mark:
        raise ValueError("no PCD header")
    meta = MetaData.parse_header([*header.decode("ascii").splitlines(), f"DATA {encoding.decode('ascii')}"])
    dtype = meta.build_dtype()
    size, found, unit = meta.points * dtype.itemsize, len(body), "bytes"
    if meta.points and meta.data == Encoding.ASCII:
        size, found, unit = meta.points, len(body.splitlines()), "points"
    elif meta.points and meta.data != Encoding.BINARY:
        packed, unpacked = struct.unpack_from("<II", body)
        if unpacked != size or size > packed * _MAX_LZF_RATIO:
            raise ValueError(f"{unpacked} bytes stated for {meta.points} points")
        size = packed + 8
    if found < size:
        raise ValueError(f"truncated: {found} of {size} {unit}")
    return {name: dtype[name].itemsize for name in dtype.names or ()}


def _bad_cloud(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path}: is not a readable point cloud ({_brief(error)}); {_COPY_AGAIN}")


def _unpack_colors(packed: np.ndarray) -> UInt32[np.ndarray, "points 3"]:
    """Red, green, blue of 0xRRGGBB, which the field holds as an integer or as the bits of a float."""
    bits = np.ascontiguousarray(packed).view(np.uint32)
    return np.stack([bits >> shift & 255 for shift in (16, 8, 0)], axis=1)


def _brief(error: BaseException) -> str:
    """The message of an exception on one line; its type where it has none."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200] or type(error).__name__
