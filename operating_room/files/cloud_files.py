"""Point clouds: coloured .pcd files, ascii, binary or compressed (data specification, section 1)."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8, UInt32

from operating_room.errors import UserError
from operating_room.files.array_files import read_arrays
from operating_room.files.raw_files import again, brief, read_bytes

MAX_POINTS = 200_000  # of a cloud
MAX_EXTENT = 600.0  # m; more than 2^16 voxels of 1 cm have no place on a curve
_MIN_EXTENT, _FEW_POINTS = 0.1, 10  # m: more points within less are no room in mm, but one in m
_MAX_LZF_RATIO = 100  # LZF cannot compress better than about 1:88
_MAX_NUMBERS = 1000  # of a point; a header may state billions, and each gets a name before sizes are compared
_PACKED_COLORS, _PACKED_BYTES = ("rgb", "rgba"), 4
_ERRORS = (ValueError, LookupError, TypeError, AttributeError, struct.error, RuntimeError, ArithmeticError, MemoryError)


def read_point_cloud(path: Path) -> Float32[np.ndarray, "points 6"]:
    """A coloured .pcd (ascii, binary or compressed) as x, y, z in m and r, g, b in 0..1; files hold mm.

    An .npz file holds `points` in m and `colors` of 0..255 (float32 and uint8 [points, 3]).

    Colours are one packed `rgb` (or `rgba`) field or the three fields r, g, b, of 0..255 or as fractions of 1. Points
    that are no number are left out: depth cameras write NaN where nothing came back.

    Raises:
        UserError: it is missing or damaged; it has no points or too many, coordinates that cannot be millimetres, or
            colours that can be read in two ways.
    """
    metres, colors = _from_arrays(path) if path.suffix == ".npz" else _from_pcd(path)
    cloud = np.concatenate([metres, colors], axis=1)
    cloud = cloud[np.isfinite(cloud).all(axis=1)]
    if not 0 < len(cloud) <= MAX_POINTS:
        lost = f", {len(metres) - len(cloud)} more without depth" if len(cloud) < len(metres) else ""
        raise UserError(
            f"{path}: has {len(cloud)} points{lost}, expected 1 to {MAX_POINTS}; thin it out or leave it out"
        )
    extent = float(np.ptp(cloud[:, :3], axis=0).max())
    if extent > MAX_EXTENT or (extent < _MIN_EXTENT and len(cloud) >= _FEW_POINTS):
        unit = "points are in metres" if path.suffix == ".npz" else "files hold millimetres"
        raise UserError(f"{path}: is {extent:.4g} m wide, expected {_MIN_EXTENT:g} to {MAX_EXTENT:g}; {unit}")
    return cloud.astype(np.float32)


def _from_pcd(path: Path) -> tuple[Float64[np.ndarray, "points 3"], Float32[np.ndarray, "points 3"]]:
    data = read_bytes(path)
    try:
        fields = _fields(data)
        _check_fields(path, fields)
        from pypcd4 import PointCloud

        points = PointCloud.from_fileobj(io.BufferedReader(io.BytesIO(data))).pc_data.reshape(-1)
        metres = np.stack([points[name].astype(np.float64) for name in "xyz"], axis=1) / 1000
        packed = [name for name in _PACKED_COLORS if fields.get(name) == _PACKED_BYTES]
        if packed:
            is_text = data.partition(b"\nDATA ")[2].startswith(b"ascii")
            colors = _of_255(_unpack_colors(points[packed[0]], np.isfinite(metres).all(axis=1) & is_text))
        else:
            colors = _separate_colors(np.stack([points[name].astype(np.float64) for name in "rgb"], axis=1))
    except _ERRORS as error:
        raise UserError(f"{path}: is not a readable point cloud ({brief(error)}); {again(path)}") from error
    return metres, colors


def _from_arrays(path: Path) -> tuple[Float32[np.ndarray, "points 3"], Float32[np.ndarray, "points 3"]]:
    metres, colors = read_arrays(path, ("points", "colors"))
    forms = [(array.dtype, array.shape[1:]) for array in (metres, colors)]
    if forms != [(np.float32, (3,)), (np.uint8, (3,))] or len(metres) != len(colors):
        shown = [f"{array.dtype} {list(array.shape)}" for array in (metres, colors)]
        raise UserError(
            f"{path}: holds points {shown[0]} and colors {shown[1]}, expected float32 [n, 3] in m and uint8 [n, 3]; "
            "write it so"
        )
    try:
        return metres, _of_255(colors)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def check_point_cloud(path: Path) -> None:
    """Find out whether a cloud can be read.

    Raises:
        UserError: it cannot (see `read_point_cloud`).
    """
    read_point_cloud(path)


def _check_fields(path: Path, fields: dict[str, int]) -> None:
    if missing := set("xyz") - fields.keys():
        raise UserError(f"{path}: point cloud without field {', '.join(sorted(missing))}; {again(path)}")
    if not any(fields.get(name) == _PACKED_BYTES for name in _PACKED_COLORS) and not set("rgb") <= fields.keys():
        raise UserError(f"{path}: point cloud without colours; it needs a 4-byte field rgb or the fields r, g, b")


def _fields(data: bytes) -> dict[str, int]:
    """Size in bytes of each field of a .pcd; raises one of _ERRORS if header and size do not fit.

    Nothing is allocated for what the header states before it is compared with the size of the file.
    """
    from pypcd4.pypcd4 import Encoding, MetaData

    header, mark, rest = data.partition(b"\nDATA ")
    encoding, _, body = rest.partition(b"\n")
    if not mark:
        raise ValueError("no PCD header")
    meta = MetaData.parse_header([*header.decode("ascii").splitlines(), f"DATA {encoding.decode('ascii').strip()}"])
    if min(meta.count) < 1 or sum(meta.count) > _MAX_NUMBERS or not 0 <= meta.points <= len(data):
        raise ValueError(f"{meta.points} points of {sum(meta.count)} numbers stated")
    if meta.points != meta.width * meta.height:
        raise ValueError(f"{meta.points} points and {meta.width} x {meta.height} stated")
    dtype = meta.build_dtype()
    size, stored, unit = meta.points * dtype.itemsize, body, "bytes"
    if meta.points and meta.data == Encoding.ASCII:
        # Of an empty line, or one behind #, the parser makes no point.
        lines = [line for line in body.splitlines() if line.partition(b"#")[0].strip()]
        size, stored, unit = meta.points, lines, "points"
    elif meta.points and meta.data != Encoding.BINARY:
        packed, unpacked = struct.unpack_from("<II", body)
        if unpacked != size or size > packed * _MAX_LZF_RATIO:
            raise ValueError(f"{unpacked} bytes stated for {meta.points} points")
        size = packed + 8
    if len(stored) < size:
        raise ValueError(f"truncated: {len(stored)} of {size} {unit}")
    rest = stored[size:] if isinstance(stored, bytes) else b"".join(stored[size:])
    if rest.strip(b"\0 \r\n"):  # some writers end with a line end, or fill up
        raise ValueError(f"{len(stored)} {unit} where {size} are stated")
    return {name: dtype[name].itemsize for name in dtype.names or ()}


def _unpack_colors(packed: np.ndarray, told: Bool[np.ndarray, " points"]) -> UInt32[np.ndarray, "points 3"]:
    """Red, green, blue of 0xRRGGBB, which the field holds as an integer or as the bits of a float.

    Raises ValueError for floats whose values are such numbers, as 4.2108e+06 in text files: the bits are others. With
    0xFF for opaque before them they are some thousand millions, or below 0. Many opaque colours are the bits of a NaN,
    which a text has lost: so also for NaN at points of a text (`told`).
    """
    if packed.dtype.kind == "f":
        if (wrong := (np.abs(packed) >= 1) & (np.abs(packed) < 1 << 32)).any():
            raise ValueError(
                f"its packed colours can be read in two ways: as {packed[wrong].max():g} or as its bits; save integers"
            )
        if (lost := np.isnan(packed) & told).any():
            raise ValueError(f"the packed colours of {lost.sum()} points are nan in its text; save integers")
    bits = np.ascontiguousarray(packed).view(np.uint32)
    return np.stack([bits >> shift & 255 for shift in (16, 8, 0)], axis=1)


def _of_255(colors: UInt8[np.ndarray, "points 3"] | UInt32[np.ndarray, "points 3"]) -> Float32[np.ndarray, "points 3"]:
    """Colours of 0..255 in 0..1; raises ValueError for those that somebody has made of fractions of 1."""
    if colors.max(initial=0) == 1:
        raise ValueError("its colours are 0 and 1: of 255, or as a whole; save them as 0 to 255")
    return colors.astype(np.float32) / 255


def _separate_colors(values: np.ndarray) -> Float32[np.ndarray, "points 3"]:
    """Colours in 0..1 of three fields, by the largest value in the whole cloud; raises ValueError if it is neither."""
    known = values[np.isfinite(values).all(axis=1)]
    if known.size and (known.min() < 0 or known.max() > 255):
        raise ValueError(f"colours from {known.min():g} to {known.max():g}; expected 0 to 255, or fractions of 1")
    if known.size and known.max() <= 1:
        if known.max() > 0 and (known == np.rint(known)).all():
            raise ValueError("its colours are 0 and 1: of 255, or as a whole; save them as 0 to 255")
        return values.astype(np.float32)
    return (values / 255).astype(np.float32)
