"""How often each thing that is learnt from is drawn: those that show something rare more often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence, Set

import numpy as np
from jaxtyping import Float


def repeat_factors(shown: Sequence[Set[Hashable]], threshold: float) -> Float[np.ndarray, " shown"]:
    """How much more often to draw what shows something rare: sqrt(threshold / share) of the rarest, or 1.

    Repeat factor sampling of Gupta et al., "LVIS" (CVPR 2019, arXiv 1908.03195, section 4). Both stages count what each
    collection shows apart, as pairs of collection and class: a hammer that lies on every table of one and is seen only
    in hands, for seconds, in the other is rare in the other. Shares are those of all, so that a collection which is a
    small part of them is drawn more often, too.

    Args:
        shown: what each frame or timepoint shows.
        threshold: what is in a smaller share of them is rare; 0: nothing is.
    """
    counts = Counter(thing for things in shown for thing in things)
    factor = {thing: max(1.0, (threshold * len(shown) / count) ** 0.5) for thing, count in counts.items()}
    return np.array([max((factor[thing] for thing in things), default=1.0) for things in shown])
