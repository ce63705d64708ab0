"""Pictures and label masks in every form a file may have: read right, or refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from operating_room.errors import UserError
from operating_room.files.picture_files import (
    check_picture,
    picture_size,
    read_depth,
    read_ids,
    read_label_mask,
    read_picture,
    read_small_picture,
)
from operating_room.files.png import write_png

LABELS = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16) % 4


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(pixels: np.ndarray, depth: int, color: int, extra: bytes = b"") -> bytes:
    """A PNG of `depth` bits and a colour type, written by hand."""
    height, width = pixels.shape[:2]
    bits = np.unpackbits(pixels.reshape(height, -1, 1).astype(">u2").view(np.uint8), axis=-1)
    rows = np.packbits(bits[..., 16 - depth :].reshape(height, -1), axis=1)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def put(folder: Path, data: bytes | Image.Image, name: str = "x.png", **options: object) -> Path:
    if isinstance(data, Image.Image):
        buffer = io.BytesIO()
        data.save(buffer, "JPEG" if name.endswith("jpg") else "PNG", **options)
        data = buffer.getvalue()
    (folder / name).write_bytes(data)
    return folder / name


PALETTE = chunk(b"PLTE", bytes(range(48)))


@pytest.mark.parametrize(
    ("depth", "color", "extra"),
    [(2, 0, b""), (4, 0, b""), (8, 0, b""), (16, 0, b""), (2, 3, PALETTE), (4, 3, PALETTE), (8, 3, PALETTE)],
)
def test_labels_are_read_as_stored_in_any_depth(tmp_path: Path, depth: int, color: int, extra: bytes) -> None:
    assert np.array_equal(read_label_mask(put(tmp_path, png(LABELS, depth, color, extra))), LABELS)


@pytest.mark.parametrize(("color", "extra"), [(0, b""), (3, PALETTE)])
def test_labels_of_one_bit(tmp_path: Path, color: int, extra: bytes) -> None:
    mask = read_label_mask(put(tmp_path, png(LABELS % 2, 1, color, extra)))
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, LABELS % 2)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_labels_in_several_equal_channels(tmp_path: Path, mode: str) -> None:
    assert np.array_equal(read_label_mask(put(tmp_path, Image.fromarray(LABELS).convert(mode))), LABELS)


def test_what_is_no_label_mask_is_refused_by_what_it_is(tmp_path: Path) -> None:
    colors = np.dstack([LABELS, LABELS + 1, LABELS])
    wide = LABELS.astype(np.uint16) + 300
    refused = {
        "labels, not colours": Image.fromarray(colors),
        "the label 303": png(wide, 16, 0),
        "16 bits in several channels": png(np.repeat(LABELS[..., None], 3, axis=2), 16, 2),
    }
    for reason, data in refused.items():
        with pytest.raises(UserError, match=reason) as caught:
            read_label_mask(put(tmp_path, data))
        assert str(tmp_path) in str(caught.value)
    with pytest.raises(UserError, match="JPEG, which changes labels"):
        read_label_mask(put(tmp_path, Image.fromarray(LABELS), "x.jpg"))


def test_sixteen_bits_are_refused_since_nobody_says_how_many_are_in_use(tmp_path: Path) -> None:
    grey = np.arange(192, dtype=np.uint16).reshape(12, 16)
    for number, data in enumerate((png(grey * 257, 16, 0), png(grey * 20, 16, 0), png(np.dstack([grey] * 3), 16, 2))):
        path = put(tmp_path, data, f"{number}.png")
        for read in (read_picture, check_picture):
            with pytest.raises(UserError, match="16 bits a channel; save it with 8"):
                read(path)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_what_is_stored_turned_is_refused(tmp_path: Path, orientation: int, name: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = put(tmp_path, image, name, exif=exif)
    for read in (read_picture, check_picture, picture_size, lambda path: read_small_picture(path, 20)):
        with pytest.raises(UserError, match=f"is stored turned \\(EXIF orientation {orientation}\\)"):
            read(path)
    mask = put(tmp_path, Image.fromarray(LABELS), "mask.png", exif=exif)
    with pytest.raises(UserError, match="is stored turned"):
        read_label_mask(mask)


@pytest.mark.parametrize("orientation", [0, 1, 9, 4711])
def test_upright_is_what_says_so_or_says_nothing_that_exif_knows(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = put(tmp_path, Image.fromarray(LABELS), "mask.png", exif=exif)
    assert np.array_equal(read_label_mask(path), LABELS)
    assert picture_size(path) == LABELS.shape[::-1]


@pytest.mark.parametrize("read", [read_label_mask, read_ids, read_picture, check_picture])
def test_every_flipped_bit_of_a_png_is_seen(tmp_path: Path, read: object) -> None:
    mask = np.zeros((40, 60, 1), np.uint8)
    mask[5:20, 10:40] = 5
    mask[15:35, 30:55] = 12
    path = tmp_path / "x.png"
    write_png(path, mask)
    whole = path.read_bytes()
    assert callable(read)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(bytes(damaged))
        with pytest.raises(UserError, match=r"x\.png: "):
            read(path)


@pytest.mark.parametrize(
    "read",
    [
        *(read_label_mask, read_ids, read_picture, check_picture, picture_size),
        lambda path: read_small_picture(path, 20),
    ],
)
def test_bombs_and_cut_files_are_refused(tmp_path: Path, read: object) -> None:
    assert callable(read)
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000)))
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    for data in (head + end, b"\x89PNG\r\n\x1a\n" + size + text + end, head, b"", b"GIF89a", b"\xff\xd8\xff\xe0"):
        path = put(tmp_path, data)
        if read is picture_size and text in data:
            continue  # its size can be read
        with pytest.raises(UserError):
            read(path)


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
@pytest.mark.parametrize(("width", "height"), [(100, 75), (320, 240), (640, 480), (2048, 480)])
def test_a_small_picture_is_the_whole_one_made_smaller(tmp_path: Path, name: str, width: int, height: int) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path = put(tmp_path, Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC), name)
    small, whole = read_small_picture(path, width), Image.fromarray(read_picture(path))
    expected = np.asarray(whole.resize((min(width, 640), height), Image.Resampling.BOX))
    assert small.shape == expected.shape
    assert np.abs(small.astype(int) - expected).mean() < 1.5  # a JPEG is decoded at a fraction of its size
    if width >= 640 or name == "x.png":
        assert np.array_equal(small, expected)


def test_pictures_of_ids(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    write_png(tmp_path / "x.png", ids)
    wide = ids.astype(np.uint32)
    expected = wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]
    assert np.array_equal(read_ids(tmp_path / "x.png"), expected)
    for grey in (LABELS, np.dstack([LABELS, LABELS])):  # with transparency, too, which is left out
        assert np.array_equal(read_ids(put(tmp_path, Image.fromarray(grey), "grey.png")), LABELS)
    with pytest.raises(UserError, match="8 bits a channel"):
        read_ids(put(tmp_path, png(LABELS, 16, 0)))
    with pytest.raises(UserError, match="8 bits a channel"):
        read_ids(put(tmp_path, Image.fromarray(ids), "x.jpg"))


def test_a_flipped_bit_of_a_depth_picture_is_found(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:24, :32]
    path = tmp_path / "depth.png"
    Image.fromarray((1500 + 5 * rows + 3 * columns).astype(np.uint16)).save(path)
    assert read_depth(path)[2, 3] == pytest.approx(1.519)
    data = path.read_bytes()
    start, end = data.find(b"IDAT") + 4, data.rfind(b"IEND") - 8
    for place in range(start, end):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError, match="is not a readable depth picture"):
            read_depth(path)


def test_a_turned_depth_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "depth.tiff"
    for orientation in (1, 6):
        Image.fromarray(np.full((16, 32), 900, np.uint16)).save(path, tiffinfo={274: orientation})
        if orientation == 1:
            assert read_depth(path).shape == (16, 32)
    with pytest.raises(UserError, match="turned"):
        read_depth(path)


def short(data: bytes, bytes_of_rows: int) -> bytes:
    """A PNG whose stream is whole, and shorter than its rows: all checksums are right."""
    at, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    rows = zlib.decompress(data[at + 8 : end - 4])
    return data[:at] + chunk(b"IDAT", zlib.compress(rows[:bytes_of_rows])) + data[end:]


@pytest.mark.parametrize("read", [read_label_mask, read_ids, read_picture, check_picture, read_depth])
def test_rows_that_are_missing_are_told(tmp_path: Path, read: Callable[[Path], object]) -> None:
    depth = 16 if read is read_depth else 8
    row = 1 + 16 * depth // 8
    path = put(tmp_path, short(png(LABELS + 1, depth, 0), 11 * row))
    with pytest.raises(UserError, match=f"x.png: .*cut off: {11 * row} of {12 * row} bytes of its rows"):
        read(path)
    read(put(tmp_path, png(LABELS * (np.arange(12) < 11)[:, None], depth, 0)))  # its own zeros


@pytest.mark.parametrize("height", [3, 4, 8])
def test_rows_of_interlaced_pictures_that_are_missing_are_told(tmp_path: Path, height: int) -> None:
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    sizes = [(len(range(y, height, down)), len(range(x, 5, right))) for x, y, right, down in passes]
    rows = b"".join((b"\0" + b"\3" * columns) * count for count, columns in sizes if columns)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, height, 8, 0, 0, 0, 1))
    whole = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert (read_label_mask(put(tmp_path, whole)) == 3).all()
    for length in range(len(rows)):
        with pytest.raises(UserError, match=r"cut off|truncated"):
            read_label_mask(put(tmp_path, short(whole, length)))


def test_strips_of_a_depth_picture_that_are_missing_are_told(tmp_path: Path) -> None:
    def tiff(strips: int) -> bytes:
        """40 rows of 8 px in strips of 10, of which these are told."""
        at = 8 + 2 + 9 * 12 + 4
        places = [at + 8 * strips + 160 * n for n in range(strips)]
        entries = [(256, 3, 1, 8), (257, 3, 1, 40), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1)]
        entries += [(273, 4, strips, at), (277, 3, 1, 1), (278, 3, 1, 10), (279, 4, strips, at + 4 * strips)]
        head = b"II*\0" + struct.pack("<IH", 8, 9) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        return head + struct.pack(f"<I{2 * strips}I", 0, *places, *[160] * strips) + b"\1\2" * 320

    assert read_depth(put(tmp_path, tiff(4), "x.tiff")).shape == (40, 8)
    with pytest.raises(UserError, match=r"x.tiff: .*rows of it are nowhere"):
        read_depth(put(tmp_path, tiff(2), "x.tiff"))
