"""`mmor checkpoints` with a hub that is a local folder: what arrives, what is refused, what models are told to be."""

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
import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile
from typer.testing import CliRunner

from mmor import cli
from mmor.hub import PUBLISHED, REPOSITORY, download, extract, find_published, list_files
from mmor.inspection import inspect
from operating_room.errors import UserError
from scene_graph_generation.fine_tuned import save_published
from tests.scene_graph_generation.tiny_bases import fine_tuned, write_bases

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
        target = (local_dir or self.root / "cache") / path
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


def test_bases_go_to_the_cache(hub: FakeHub) -> None:
    for name in ("config.json", "pytorch_model.bin", "tf_model.h5"):
        hub.put(name, b"{}", "openai/clip-vit-large-patch14-336")
    assert download(find_published("clip-base")) == [hub.root / "cache"]
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


def test_models_are_told_by_their_content(tmp_path: Path) -> None:
    language, vision = write_bases(tmp_path)
    save_published(tmp_path / "x", fine_tuned(), str(language), "openai/clip-vit-large-patch14-336")
    told = inspect(tmp_path / "x")
    assert "fine-tuned beside a base (published form)" in told
    assert "rank 4, alpha 8" in told
    assert f"needs: {language}, openai/clip-vit-large-patch14-336 (from the hub)" in told
    assert "language model" in inspect(language)
    assert "vision tower" in inspect(vision)
    shipped = Path(cli.__file__).parent / "checkpoints"
    assert "kind: scene-graph model, whole" in inspect(shipped / "scene_graph_small")
    assert "kind: segmenter of single frames" in inspect(shipped / "panoptic_small")
    state = {"sem_seg_head.a": torch.zeros(3, 4), "backbone.b": torch.zeros(5), "tracker.c": torch.zeros(6)}
    torch.save({"model": state, "iteration": 5}, tmp_path / "model.pth")
    assert "DVIS++ online" in inspect(tmp_path / "model.pth")
    assert "parameters: 23" in inspect(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("name", "problem"), [("none", "not found"), ("a.txt", "no model file"), ("", "no model folder")]
)
def test_what_is_no_model_is_named(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match=problem):
        inspect(tmp_path / name)


def test_the_commands(hub: FakeHub, tmp_path: Path) -> None:
    run = CliRunner()
    listed = run.invoke(cli.app, ["checkpoints", "list"])
    assert listed.exit_code == 0
    assert all(f"{entry.name}: " in listed.output for entry in PUBLISHED)
    hub.put("panoptic_segmentation/mask2former/ctvis_r50_vspw.pth", b"weights of a segmenter")
    fetched = run.invoke(cli.app, ["checkpoints", "download", "segmenter-initial", "--root", str(tmp_path)])
    assert (tmp_path / "mask2former" / "ctvis_r50_vspw.pth").is_file(), fetched.output
    shown = run.invoke(
        cli.app, ["checkpoints", "inspect", str(Path(cli.__file__).parent / "checkpoints/panoptic_small")]
    )
    assert "parameters:" in shown.output
