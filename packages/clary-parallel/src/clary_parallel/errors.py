"""What can go wrong between ranks.

ParallelError
├── PeerStuck           a rank waited longer than the transport's patience; the message names who did not come
├── Aborted             another rank ended the work, with the reason it gave
├── Disagreement        ranks called different collectives, or the same one with different shapes, types or settings
├── NonFiniteGradient   a gradient is NaN or infinite; the message names the variables and the rank
└── NotOffered          a call of another library that Clary does not offer; the message names the alternative
"""

from __future__ import annotations

from collections.abc import Mapping


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


def no_such_name(module: str, name: str, alternatives: Mapping[str, str], page: str = "") -> Exception:
    """The error for a name that a compatible module does not have.

    Args:
        module: The module's name.
        name: What was looked for.
        alternatives: Sentences about names of the original that are not offered.
        page: The page of docs/reference that lists what is.
    """
    if name in alternatives:
        return NotOffered(f"{module}.{name} is not offered by Clary: {alternatives[name]}")
    listed = f"; docs/reference/{page} lists all." if page else ""
    return AttributeError(f"module {module!r} (Clary's) has no attribute {name!r}{listed}")
