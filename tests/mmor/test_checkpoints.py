"""`mmor checkpoints` with a hub that is a local folder: what arrives and what is refused."""

from __future__ import annotations

import hashlib
import io
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile
from typer.testing import CliRunner

from mmor import cli
from mmor import hub as hub_files
from mmor.hub import PUBLISHED, REPOSITORY, download, extract, find_published, list_files
from operating_room.errors import UserError

NAME = "llava-lora_hybridor_qlora_0.50drop_MIXED"
SEGMENTER = "output_CTVIS_R50_HybridOR_withsimstation"


class FakeHub:
    """Repositories as folders; counts what is fetched."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []
        self.checksums: dict[str, str] = {}  # others than the true ones

    def put(self, path: str, data: bytes, repository: str = REPOSITORY) -> None:
        file = self.root / repository / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def list_repo_tree(self, repository: str, folder: str | None, recursive: bool) -> Iterator[Any]:
        yield SimpleNamespace(path="a folder")
        for file in sorted((self.root / repository / (folder or "")).rglob("*")):
            if file.is_file():
                path = file.relative_to(self.root / repository).as_posix()
                digest = self.checksums.get(path) or hashlib.sha256(file.read_bytes()).hexdigest()
                lfs = {"size": 1, "oid": digest, "pointerSize": 1} if file.stat().st_size > 10 else None
                yield RepoFile(path=path, size=file.stat().st_size, oid="1", lfs=lfs)

    def hf_hub_download(self, repository: str, path: str, local_dir: Path | None = None) -> str:
        self.fetched.append(path)
        target = (local_dir or self.root / "cache" / repository) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.root / repository / path, target)
        return str(target)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
    return fake


def zipped(members: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            member = zipfile.ZipInfo(name)
            if name in links:
                member.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(member, data)
    return buffer.getvalue()


def test_files_go_where_the_configurations_look_for_them(hub: FakeHub, tmp_path: Path) -> None:
    hub.put(f"{SEGMENTER}/model_final.pth", b"weights of a segmenter")
    hub.put(f"{SEGMENTER}/config.yaml", b"small")
    paths = download(find_published("segmenter-ctvis"), tmp_path)
    assert paths == [tmp_path / SEGMENTER / name for name in ("config.yaml", "model_final.pth")]
    assert paths[1].read_bytes() == b"weights of a segmenter"
    assert sorted(path.name for path in (tmp_path / SEGMENTER).iterdir()) == ["config.yaml", "model_final.pth"]
    assert len(hub.fetched) == 2
    paths[0].unlink()
    download(find_published("segmenter-ctvis"), tmp_path)
    assert hub.fetched[2:] == [f"{SEGMENTER}/config.yaml"]


def test_each_scene_graph_model_is_its_archive_unpacked(hub: FakeHub, tmp_path: Path) -> None:
    for suffix in ("", "_temporal_curriculum", "_downstream_tasks"):
        hub.put(f"checkpoints/{NAME}{suffix}.zip", zipped({f"top/config{suffix}.json": b"{}", "top/a/b.bin": b"b"}))
    for kind, suffix in (("base", ""), ("temporal", "_temporal_curriculum"), ("downstream", "_downstream_tasks")):
        (folder,) = download(find_published(f"scene-graph-{kind}"), tmp_path)
        assert folder == tmp_path / "checkpoints" / f"{NAME}{suffix}"
        assert (folder / f"config{suffix}.json").is_file()
        assert (folder / "a" / "b.bin").read_bytes() == b"b"
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3
    assert download(find_published("scene-graph-base"), tmp_path)
    assert len(hub.fetched) == 3


def test_what_macos_adds_to_an_archive_is_left_out(hub: FakeHub, tmp_path: Path) -> None:
    """Beside the top folder it would keep that one inside, where no command looks for the model."""
    added = {"__MACOSX/top/._config.json": b"\0\5\x16\7", ".DS_Store": b"Bud1", "top/._config.json": b"\0\5\x16\7"}
    hub.put(f"checkpoints/{NAME}.zip", zipped({"top/config.json": b"{}", **added}))
    (folder,) = download(find_published("scene-graph-base"), tmp_path)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_bases_go_to_the_cache(hub: FakeHub) -> None:
    for name in ("config.json", "pytorch_model.bin", "tf_model.h5"):
        hub.put(name, b"{}", "openai/clip-vit-large-patch14-336")
    assert download(find_published("clip-base")) == [hub.root / "cache/openai/clip-vit-large-patch14-336"]
    assert hub.fetched == ["config.json", "pytorch_model.bin"]


def test_a_damaged_download_is_not_kept(hub: FakeHub, tmp_path: Path) -> None:
    hub.put(f"{SEGMENTER}/model_final.pth", b"weights of a segmenter")
    hub.checksums[f"{SEGMENTER}/model_final.pth"] = "0" * 64
    with pytest.raises(UserError, match=r"model_final\.pth: was damaged on its way"):
        download(find_published("segmenter-ctvis"), tmp_path)
    assert not list((tmp_path / SEGMENTER).rglob("*.pth"))


def test_a_full_disk_is_seen_before_the_download(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put(f"{SEGMENTER}/model_final.pth", b"weights of a segmenter")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="GB are needed"):
        download(find_published("segmenter-ctvis"), tmp_path)
    assert not hub.fetched


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("no traffic"), ConnectionError(), HFValidationError("x")])
def test_a_hub_that_cannot_be_reached_is_one_sentence(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    hub.put(f"{SEGMENTER}/model_final.pth", b"weights of a segmenter")
    for target, name in ((huggingface_hub, "hf_hub_download"), (hub, "list_repo_tree")):
        monkeypatch.setattr(target, name, fail)
        with pytest.raises(UserError, match=r"egeozsoy/MM-OR: (cannot be fetched|is neither)") as stopped:
            download(find_published("segmenter-ctvis"), tmp_path)
        assert "\n" not in str(stopped.value)


def test_what_is_no_longer_there_is_named(hub: FakeHub) -> None:
    hub.put("checkpoints/other.zip", b"")
    with pytest.raises(UserError, match=r"holds no file of scene-graph-temporal any more \(but other\.zip\)"):
        list_files(find_published("scene-graph-temporal"))
    with pytest.raises(UserError, match="there are segmenter-initial"):
        find_published("everything")


@pytest.mark.parametrize(
    ("members", "links", "problem"),
    [
        ({"../evil": b""}, (), "outside its folder"),
        ({"a/../../evil": b""}, (), "outside its folder"),
        ({"/evil": b""}, (), "outside its folder"),
        ({"..\\evil": b""}, (), "outside its folder"),
        ({"C:/evil": b""}, (), "outside its folder"),
        ({"good": b"", "link": b"/etc/passwd"}, ("link",), "holds a link"),
        ({}, (), "is empty"),
    ],
)
def test_archives_that_cannot_be_trusted_leave_nothing(
    tmp_path: Path, members: dict[str, bytes], links: tuple[str, ...], problem: str
) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(members, links))
    with pytest.raises(UserError, match=problem):
        extract(tmp_path / "a.zip", tmp_path / "out" / "a")
    assert [path.name for path in tmp_path.rglob("*") if path.name != "out"] == ["a.zip"]
    assert not (tmp_path.parent / "evil").exists()


def test_a_cut_archive_leaves_nothing(tmp_path: Path) -> None:
    whole = zipped({"top/a": b"a" * 1000, "top/b": b"b" * 1000})
    for damaged in (whole[:500], whole[:60] + b"xxxx" + whole[64:], b""):
        (tmp_path / "a.zip").write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged or no zip"):
            extract(tmp_path / "a.zip", tmp_path / "a")
        assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_an_archive_never_replaces_a_folder(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"top/a": b"new"}))
    mine = tmp_path / "out" / "a"
    mine.mkdir(parents=True)
    extract(tmp_path / "a.zip", mine)  # an empty folder is as good as none
    (mine / "a").write_text("mine")
    with pytest.raises(UserError, match="is there already, and not overwritten"):
        extract(tmp_path / "a.zip", mine)
    assert (mine / "a").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        extract(tmp_path / "a.zip", tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "file", "out"]
    hub.put(f"checkpoints/{NAME}.zip", zipped({"top/config.json": b"{}"}))
    (tmp_path / "checkpoints" / NAME).mkdir(parents=True)  # an empty folder is no model that is there already
    download(find_published("scene-graph-base"), tmp_path)
    assert (tmp_path / "checkpoints" / NAME / "config.json").is_file()


def test_a_download_never_replaces_what_was_trained(hub: FakeHub, tmp_path: Path) -> None:
    """The published configuration trains into the folder that the published weights go to."""
    hub.put(f"{SEGMENTER}/model_final.pth", b"weights of a segmenter")
    mine = tmp_path / SEGMENTER / "model_final.pth"
    mine.parent.mkdir()
    mine.write_bytes(b"a week of training")
    with pytest.raises(UserError, match=r"model_final\.pth: is there already, and another file; move it away"):
        download(find_published("segmenter-ctvis"), tmp_path)
    assert mine.read_bytes() == b"a week of training"
    assert not hub.fetched


def test_what_stands_in_the_way_of_a_download_is_named(hub: FakeHub, tmp_path: Path) -> None:
    hub.put(f"{SEGMENTER}/model_final.pth", b"weights of a segmenter")
    (tmp_path / "a").write_text("a file")
    with pytest.raises(UserError, match=r"/a: is no folder; choose another one"):
        download(find_published("segmenter-ctvis"), tmp_path / "a" / "b")
    (tmp_path / SEGMENTER / "model_final.pth" / "x").mkdir(parents=True)
    with pytest.raises(UserError, match=r"model_final\.pth: is in the way"):
        download(find_published("segmenter-ctvis"), tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_compression_is_the_archive_s_fault(tmp_path: Path, method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("top/a", bytes(range(256)) * 40)
    whole = buffer.getvalue()
    for place in range(60, whole.index(b"PK\x01\x02") - 20, 7):  # within what is compressed
        (tmp_path / "a.zip").write_bytes(whole[:place] + b"\xff\x00\xff\x00" + whole[place + 4 :])
        with pytest.raises(UserError, match=r"a\.zip: is damaged or no zip"):
            extract(tmp_path / "a.zip", tmp_path / "a")
        assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_the_commands(hub: FakeHub, tmp_path: Path) -> None:
    run = CliRunner()
    listed = run.invoke(cli.app, ["checkpoints", "list"])
    assert listed.exit_code == 0
    assert all(f"{entry.name}: " in listed.output for entry in PUBLISHED)
    hub.put("panoptic_segmentation/mask2former/ctvis_r50_vspw.pth", b"weights of a segmenter")
    fetched = run.invoke(cli.app, ["checkpoints", "download", "segmenter-initial", "--root", str(tmp_path)])
    assert (tmp_path / "mask2former" / "ctvis_r50_vspw.pth").is_file(), fetched.output
    shown = run.invoke(
        cli.app, ["checkpoints", "inspect", str(Path(cli.__file__).parents[1] / "checkpoints/panoptic_small")]
    )
    assert "parameters:" in shown.output


def test_what_the_cache_holds_needs_no_room(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("config.json", b"{}", "openai/clip-vit-large-patch14-336")
    (folder,) = download(find_published("clip-base"))

    def cached(repository: str, path: str) -> str | None:
        return str(folder / path) if repository.startswith("openai/") else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert download(find_published("clip-base")) == [folder]


def test_a_download_leaves_what_others_into_the_same_folder_have_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three entries go to `checkpoints`; the first that was done removed what the others had fetched by then."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("model/config.json", "{}")

    def list_files(entry: hub_files.Published) -> list[hub_files.HubFile]:
        return [hub_files.HubFile(f"{entry.folder}/{entry.name}.zip", 100, None)]

    def fetch(repository: str, path: str, local_dir: Path) -> str:
        file = local_dir / (f"{path}.incomplete" if "base" in path else path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(packed.getvalue())
        if "base" in path:
            raise KeyboardInterrupt
        return str(file)

    monkeypatch.setattr(hub_files, "list_files", list_files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    with pytest.raises(KeyboardInterrupt):
        hub_files.download(hub_files.find_published("scene-graph-base"), tmp_path)
    hub_files.download(hub_files.find_published("scene-graph-downstream"), tmp_path)
    assert list(tmp_path.rglob("*.incomplete"))
