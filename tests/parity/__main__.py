"""Compare this code with recorded numbers of the published code: `python -m tests.parity DIR`.

DIR has the structure of the data, stage-1 or stage-2 cases (or holds several such folders). One line per comparison,
last line `N passed, M failed`; exit status 1 on any failure, on an unknown kind and on no case at all.

A kind is a name with a function in the `KINDS` of one of the `kinds_*.py` beside this file: case path -> results.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.parity.case import Result

Kind = Callable[[Path], Iterable[Result]]

# Files beside the cases: descriptions and weights that several cases share.
_COMPANION = re.compile(
    r"README\.md|fill\.py|manifest_\w+\.json(\.gz)?|weight_scale\.json|mini_dataset\.tar\.gz|__pycache__|\..*"
)
_MATERIAL = "real"  # annotations that cases of several kinds read
_CASE_FILE = re.compile(r"(?:case\d+_)?(?P<kind>[a-z]\w*?)(?:_s(?:eed)?\d+)?\.json(?:\.gz)?")


def main() -> int:
    """Run every case below the folder on the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="cases: data, stage1, stage2, or a parent of these")
    return run(parser.parse_args().folder)


def run(folder: Path) -> int:
    """Run every case below `folder`, print the lines, return 0 if all pass and there is one, else 1."""
    kinds = find_kinds()
    counts: Counter[str] = Counter()
    for case, kind in find_cases(folder, set(kinds)):
        name = case.relative_to(folder.parent if case == folder else folder).as_posix()
        for line, outcome in _run_case(name, case, kind, kinds):
            counts[outcome] += 1
            print(line, flush=True)
    if not counts:
        print(f"no case below {folder}")
    print(f"{counts['passed']} passed, {counts['failed']} failed")
    return 0 if counts and not counts["failed"] else 1


def find_kinds() -> dict[str, Kind]:
    """Kind name -> function, from every `kinds_*.py` beside this file.

    Raises:
        ValueError: two files define the same kind.
    """
    kinds: dict[str, Kind] = {}
    for path in sorted(Path(__file__).parent.glob("kinds_*.py")):
        new = importlib.import_module(f"tests.parity.{path.stem}").KINDS
        if twice := kinds.keys() & new.keys():
            raise ValueError(f"{path.name}: kind {sorted(twice)} has been defined before")
        kinds |= new
    return kinds


def find_cases(folder: Path, kinds: set[str]) -> Iterator[tuple[Path, str | None]]:
    """Cases below `folder` in name order, each with its kind; None for a folder or file that is of no known kind."""
    if folder.name in kinds:
        yield folder, folder.name
        return
    for path in sorted(folder.iterdir()) if folder.is_dir() else [folder] * folder.is_file():
        if _COMPANION.fullmatch(path.name) or path.name == _MATERIAL:
            continue
        if path.is_dir():
            cases = list(find_cases(path, kinds))
            known = any(kind is not None for _, kind in cases)
            yield from cases if known else [(path, None)]  # a foreign folder is one line, not one per file
        elif match := _CASE_FILE.fullmatch(path.name):
            yield path, match["kind"] if match["kind"] in kinds else None
        elif not (path.suffix == ".safetensors" and path.with_suffix(".json").exists()):
            yield path, None


def _run_case(name: str, case: Path, kind: str | None, kinds: dict[str, Kind]) -> Iterator[tuple[str, str]]:
    """The lines of one case, each with its outcome: passed or failed."""
    if kind is None:
        yield f"{name}: unknown kind FAIL", "failed"
        return
    compared = False
    try:
        for result in kinds[kind](case):
            compared = True
            verdict = "ok" if result.ok else "FAIL"
            where = f" at {result.where.lstrip('.')}" if result.where and not result.ok else ""
            line = f"{name} {result.name}: error {result.error:.3g}, tolerance {result.tolerance:.3g} {verdict}{where}"
            yield line, "passed" if result.ok else "failed"
        if not compared:
            yield f"{name}: nothing to compare FAIL", "failed"
    except Exception as error:  # noqa: BLE001 - whatever breaks in one case is its failure, not the end of the run
        yield f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]} FAIL", "failed"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    raise SystemExit(main())
