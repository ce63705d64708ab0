"""In how many seconds of simulated takes a person is labelled with what it has not reached yet, or has left.

Usage: python scripts/probe_walking.py [--takes 20] [--seconds 60] [--seed 19] [--test] [--breaches N]; takes of MM-OR,
or with --test those of the test split. Nothing is rendered. Away is a person whose axis is more than
0.85 m (closeTo) or 0.6 m (all else) from the thing's edge; breaches of sterility are counted apart, and each listed.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable

import numpy as np

from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from operating_room_simulator.stage.floor import distance_to, plan_floor
from operating_room_simulator.stage.furniture import FOOTPRINTS
from operating_room_simulator.stage.room import Room
from operating_room_simulator.story.story import script_surgery

_PREDICATES = ("closeTo", "touching", "manipulating", "preparing")
_NEAR, _AT = 0.85, 0.6  # m


def main(takes: Iterable[Take], seed: int, seconds: int, breaches: int | None) -> None:
    """Print a line for each breach, and a table row for each predicate."""
    every: Counter[str] = Counter()
    away: Counter[str] = Counter()
    for take in takes:
        surgery = script_surgery(take, seed, seconds, breaches=breaches)
        for moment, plan in zip(surgery.moments, plan_floor(Room(take, seed, mmor().labels), surgery.moments)):
            for triplet in moment.triplets:
                who, what, predicate = triplet
                if predicate not in _PREDICATES or who not in plan.people or what not in plan.things:
                    continue
                spot = np.array([plan.people[who]])
                distance = float(distance_to(plan.things[what], FOOTPRINTS[what], spot)[0])
                kind = "breach" if triplet in moment.breaches else predicate
                every[kind] += 1
                away[kind] += distance > (_NEAR if predicate == "closeTo" else _AT)
                if kind == "breach":
                    print(f"{take.name} {moment.second}: {who} {predicate} {what}, {distance:.2f} m away")
    print("| | seconds | away |\n|---|---|---|")
    for kind, count in every.most_common():
        print(f"| {kind} | {count} | {away[kind] / count:.1%} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--takes", type=int, default=20, help="651_SIM and so on (default: 20)")
    parser.add_argument("--seconds", type=int, default=60, help="of each (default: 60)")
    parser.add_argument("--seed", type=int, default=19, help="(default: 19)")
    parser.add_argument("--test", action="store_true", help="the takes of the test split")
    parser.add_argument("--breaches", type=int, help="in each take (default: as usual)")
    given = parser.parse_args()
    own = [mmor().find_take(f"{651 + number}_SIM") for number in range(given.takes)]
    split = [take for take in mmor().split_takes("test") if take.dataset == "MMOR"]
    main(split if given.test else own, given.seed, given.seconds, given.breaches)
