"""Random graphs and takes in the closed language, for the tests of graphs, memory, metric and downstream tasks."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st

from operating_room.domain.domain import mmor
from operating_room.graphs.scene_graph import Sample, Triplet

triplets = st.builds(
    Triplet,
    st.sampled_from(mmor().language.entities),
    st.sampled_from(mmor().language.entities),
    st.sampled_from(mmor().language.predicates),
)
graphs = st.lists(triplets, max_size=8).map(tuple)


def random_samples(count: int, seed: int, take_names: tuple[str, ...] = ("001_4DOR", "002_PKA_MMOR")) -> list[Sample]:
    """Takes one after the other; each graph differs from the one before in a few triplets."""
    generator = Random(seed)
    samples = []
    for take_name in take_names:
        graph: dict[tuple[str, str], str] = {}
        for frame in range(count // len(take_names)):
            for _ in range(generator.randrange(3)):
                graph.pop(generator.choice([*graph, ("", "")]), None)
                pair = generator.sample(mmor().language.entities[:12], 2)
                graph[pair[0], pair[1]] = generator.choice(mmor().language.predicates)
            triplets = sorted(Triplet(subject, object_, predicate) for (subject, object_), predicate in graph.items())
            samples.append(Sample(take_name, f"{frame:06d}", tuple(triplets)))
    return samples
