"""Mixes 64-bit numbers: the arithmetic behind shingles, bands and sides, the same everywhere and in every release."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.uint64]


def mixed(numbers: Numbers) -> Numbers:
    """Return numbers whose every bit depends on all bits of theirs (finaliser of SplitMix64, Steele et al. 2014).

    Different numbers stay different.
    """
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
