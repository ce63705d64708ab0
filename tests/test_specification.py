"""Every section of the specification that code and documents cite can be looked up in docs/specification."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPECIFICATION = ROOT / "docs" / "specification"
NAMES = {"data": "data", "stage-1": "stage1", "stage-2": "stage2"}  # as cited -> file
FOLDERS = {"operating_room": "data", "panoptic_segmentation": "stage1", "scene_graph_generation": "stage2"}
_NUMBER = r"\d+(?:\.\d+)?"
_LIST = rf"{_NUMBER}(?: \([^()]*\))?(?:(?:, and |, | and | to |-){_NUMBER}(?: \([^()]*\))?)*"
_NAMED = re.compile(rf"(data|stage-1|stage-2) specification, sections? ({_LIST})", re.IGNORECASE)
_NAMED_AFTER = re.compile(rf"sections? ({_LIST}) of the (data|stage-1|stage-2) specification", re.IGNORECASE)
_ANY = re.compile(rf"(?<!\d\), )\bsections? ({_LIST})", re.IGNORECASE)  # but `(CVPR 2025), section 4` is of a paper
_ITEM = re.compile(r"section 11, (fix|mirror) (\d+)|(fix|quirk|mirror) (\d+) of section 11|11, (fix|mirror) (\d+)")


def sections(name: str) -> set[str]:
    """Numbers of the headings of a specification."""
    text = (SPECIFICATION / f"{name}.md").read_text(encoding="utf-8")
    return set(re.findall(rf"^#+ ({_NUMBER})\.? ", text, re.MULTILINE))


def items(kind: str) -> set[str]:
    """Numbers in one of the two lists of the data specification's section 11: mirrored behaviour, fixed behaviour."""
    text = (SPECIFICATION / "data.md").read_text(encoding="utf-8").split("## 11. ")[1]
    mirrored, fixed = text.split("\nFix ")
    return set(re.findall(r"^(\d+)\. ", fixed if kind == "fix" else mirrored, re.MULTILINE))


def wrong_citations(text: str, folder: str = "") -> Iterator[str]:
    """What a text cites that does not exist; of a section without a name, `folder` says of which specification."""
    plain = " ".join(line.strip().lstrip("#").strip() for line in text.splitlines())
    named = [(match[1].lower(), match[2]) for match in _NAMED.finditer(plain)]
    named += [(match[2].lower(), match[1]) for match in _NAMED_AFTER.finditer(plain)]
    for name, cited in named:
        there = sections(NAMES[name])
        yield from (f"{name} {number}" for number in re.findall(_NUMBER, _bare(cited)) if number not in there)
    meant = {NAMES[name] for name, _ in named} | ({FOLDERS[folder]} if folder in FOLDERS else set())
    if not meant:
        return
    for match in _ANY.finditer(plain):
        for number in re.findall(_NUMBER, _bare(match[1])):
            if not any(number in sections(name) for name in meant):
                yield f"section {number} of {' or '.join(sorted(meant))}"
    for match in _ITEM.finditer(plain):
        kind, number = (group for group in match.groups() if group)
        if number not in items(kind):
            yield f"{kind} {number}"


def _bare(cited: str) -> str:
    return re.sub(r"\([^()]*\)", "", cited)


def files() -> list[Path]:
    """Everything that people write here."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.splitlines() or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
    kept = (".py", ".md", ".yaml", ".sh", ".toml")
    return [Path(name) for name in names if name.endswith(kept) and not name.startswith("docs/specification/")]


def test_every_cited_section_exists() -> None:
    wrong = {}
    for path in files():
        if path != Path(__file__).relative_to(ROOT) and (ROOT / path).is_file():
            found = list(wrong_citations((ROOT / path).read_text(encoding="utf-8"), path.parts[0]))
            wrong |= {str(path): found} if found else {}
    assert not wrong


def test_much_is_cited() -> None:
    """The patterns above still find what they look for."""
    texts = [(ROOT / path).read_text(encoding="utf-8") for path in files() if path.suffix == ".py"]
    assert sum(len(_NAMED.findall(" ".join(text.split()))) for text in texts) > 60
    assert sum(len(_ITEM.findall(" ".join(text.split()))) for text in texts) > 15


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Data specification, sections 7.3-7.5, says", []),
        ("(data specification, section 12)", ["data 12", "section 12 of data"]),
        ("stage-1 specification,\n    # section 4.9", ["stage-1 4.9", "section 4.9 of stage1"]),
        ("Stage-2 specification, sections 5 to 13.", ["stage-2 13", "section 13 of stage2"]),
        ("data specification, sections 4 (scene graphs) and 15 (memory)", ["data 15", "section 15 of data"]),
        ("data specification, section 1; (fix 10 of section 11)", []),
        ("data specification, section 1; (fix 11 of section 11)", ["fix 11"]),
        ("data specification, sections 7.5 and 11, fix 14", ["fix 14"]),
        ("data specification, section 1; section 11, mirror 12", ["mirror 12"]),
        ("section 12 of the data specification", ["data 12", "section 12 of data"]),
        ("MM-OR (CVPR 2025), section 40; data specification, section 1", []),
        ("section 99 of another book", []),
    ],
)
def test_wrong_citations_are_found(text: str, wrong: list[str]) -> None:
    assert list(wrong_citations(text)) == wrong


def test_a_section_without_a_name_is_of_the_folder_s_specification() -> None:
    assert list(wrong_citations("as in section 9.4", "panoptic_segmentation")) == []
    assert list(wrong_citations("as in section 9.4", "operating_room")) == ["section 9.4 of data"]


@pytest.mark.parametrize("name", NAMES.values())
def test_the_house_links_to_it(name: str) -> None:
    assert sections(name)
    assert f"docs/specification/{name}.md" in (ROOT / "README.md").read_text(encoding="utf-8")
