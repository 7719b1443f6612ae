"""Every error the harness raises on purpose.

A message says what was wrong, what was given, what is allowed, and the mend, in that order. The CLI shows a
`HarnessError` as one line and exits 2; any other exception is a bug of ours and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Root of all errors a user can mend."""


class ConfigError(HarnessError):
    """A configuration value is missing, of the wrong type, or out of range."""


class UnknownNameError(HarnessError):
    """A method, suite, metric, evaluator or preset of that name does not exist."""

    @classmethod
    def of(cls, what: str, name: str, known: Iterable[str], mend: str = "") -> UnknownNameError:
        """Build the message: the name given, its nearest relatives, all that is known, and the mend."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        listed = ", ".join(names) if names else "none"
        tail = f" {mend}" if mend else ""
        return cls(f"Unknown {what} {name!r}: known are {listed}.{hint}{tail}")


class PluginError(HarnessError):
    """A plugin fails to import, breaks a contract, or speaks another API version."""


class NameClashError(HarnessError):
    """Two distributions provide one name."""


class MissingModelError(HarnessError):
    """A language model's files are not there, or are not what they should be."""


class HookpointError(HarnessError):
    """The language model has no such hookpoint."""


class DataError(HarnessError):
    """A text or activation source is missing, empty, too small or malformed."""


class NotEvaluatedError(DataError):
    """The language model, texts or SAE cannot support an evaluation, as was measured: it is skipped, not failed."""


class CacheError(HarnessError):
    """The cache folder cannot be used: not writable, full, or locked for too long."""


class DiskSpaceError(CacheError):
    """The estimate of what will be written is larger than the space that is free."""


class CorruptArtefactError(CacheError):
    """A cached artefact's files differ from its manifest."""


class CheckpointError(HarnessError):
    """A saved SAE is missing, corrupt, or of an unknown architecture."""


class RecordError(HarnessError):
    """A record is malformed, tainted, or of a schema this version cannot read."""


class BaselineError(HarnessError):
    """A stored baseline is missing, would be overwritten, or differs from its manifest."""


class ShapeError(HarnessError):
    """Tensors whose shapes or sizes do not fit together."""


class NonFiniteError(HarnessError):
    """A loss, gradient, parameter or activation is NaN or infinite."""


class ConformanceError(HarnessError):
    """A plugin does not do what its spec declares."""
