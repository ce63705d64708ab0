"""Stretches of annotated takes in which people have changed places, to be rendered for training.

Usage: python scripts/exchange_people.py FILE OUT [--without TAKE]... [--takes N] [--seconds N] [--first N] [--seed N]
FILE is a published relationships_*.json or .json.gz. OUT gets as many own takes of MM-OR (501_SIM, ...) and of 4D-OR
(501_4DOR, ...) as asked for, where FILE has both. Render them with
mmor data synthesize --relations OUT --take 501_SIM ... --seconds N --news

Annotated takes are few, and in them the same people do the same things: a model that is trained on their habits tells
who does something without looking. Here a whole stretch keeps its order and its graphs, but for who is who.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from operating_room.domain.domain import mmor
from operating_room.graphs.graph_files import load_samples, save_samples
from operating_room.graphs.scene_graph import Sample, Triplet, by_take

# Who may change places with whom, and in what share of the stretches.
EXCHANGES = (
    (("head_surgeon", "assistant_surgeon"), 0.5),
    (("nurse", "circulator"), 0.25),
    (("circulator", "mps"), 0.25),
)
OWN = {"MMOR": "SIM", "4DOR": "4DOR"}  # dataset -> how its own takes are named


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--without", action="append", default=[], metavar="TAKE")
    for name, value in {"takes": 8, "seconds": 120, "first": 501, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    of = parser.parse_args()
    left_out = {mmor().find_take(name).sample_name for name in of.without}
    samples = [sample for sample in load_samples(of.file) if sample.take_name not in left_out]
    save_samples(of.out, stretches(samples, of.takes, of.seconds, of.first, Random(of.seed)))


def stretches(samples: Sequence[Sample], count: int, seconds: int, first: int, generator: Random) -> Iterator[Sample]:
    """The samples of `count` own takes for each dataset that has a take of so many seconds."""
    long = {name: group for name, group in by_take(samples).items() if len(group) >= seconds}
    for dataset, suffix in OWN.items():
        of_dataset = [name for name in long if mmor().find_take(name).dataset == dataset]
        for number in range(count if of_dataset else 0):
            # The longer a take, the likelier: every stretch of a dataset is as likely as any other.
            (name,) = generator.choices(of_dataset, [len(long[name]) - seconds + 1 for name in of_dataset])
            start = generator.randrange(len(long[name]) - seconds + 1)
            roles = new_roles(generator)
            own = mmor().find_take(f"{first + number}_{suffix}").sample_name
            for second, sample in enumerate(long[name][start : start + seconds]):
                yield Sample(own, f"{second:06d}", exchanged(sample.triplets, roles))


def new_roles(generator: Random) -> dict[str, str]:
    """Who stands for whom in a stretch."""
    roles: dict[str, str] = {}
    for (one, other), share in EXCHANGES:
        if generator.random() < share:
            roles |= {one: roles.get(other, other), other: roles.get(one, one)}
    return roles


def exchanged(triplets: Sequence[Triplet], roles: Mapping[str, str]) -> tuple[Triplet, ...]:
    """The same relations among the people who stand for these."""
    return tuple(
        Triplet(roles.get(subject, subject), roles.get(object_, object_), predicate)
        for subject, object_, predicate in triplets
    )


if __name__ == "__main__":
    main()
