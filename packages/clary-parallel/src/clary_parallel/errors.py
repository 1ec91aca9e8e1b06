"""What can go wrong between ranks.

ParallelError
├── PeerStuck           a rank waited longer than the transport's patience; the message names who did not come
├── Aborted             another rank ended the work, with the reason it gave
├── Disagreement        ranks called different collectives, or the same one with different shapes, types or settings
├── NonFiniteGradient   a gradient is NaN or infinite; the message names the variables and the rank
└── NotOffered          a call of another library that Clary does not offer; the message names the alternative
"""

from __future__ import annotations


class ParallelError(RuntimeError):
    """Base of the errors of this package."""


class PeerStuck(ParallelError):
    """A rank did not take part within the transport's patience."""


class Aborted(ParallelError):
    """Another rank ended the work; the message is its reason."""


class Disagreement(ParallelError):
    """Ranks did not call the same collective with the same shapes, types and settings."""


class NonFiniteGradient(ParallelError):
    """A gradient is NaN or infinite."""


class NotOffered(ParallelError):
    """A call that an import-compatible module does not offer; the message names the alternative."""
