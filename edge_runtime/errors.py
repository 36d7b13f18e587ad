"""Every error this project raises on purpose, and the exit code a command ends with; imports nothing.

    EdgeRuntimeError                    1
    |-- UsageError (ValueError)         2   options of a command that have nothing to act on
    |-- CheckpointError (ValueError)    1   a checkpoint that cannot be read or is not supported
    |-- RecipeError (ValueError)        1   an unknown or contradictory recipe or precision plan
    |-- SchemaError (ValueError)        1   a report schema that cannot be read, or that no report can be held to
    |-- CalibrationError (ValueError)   1   calibration data or a calibration cache that must not be used
    |-- BuildError (OSError)            1   a build that could not write its result (a full disk, say)
    |-- BundleError (ValueError)        1   a bundle that must not be loaded
    |   |-- BundleNotFoundError (FileNotFoundError)      no bundle there, or a file of it is missing
    |   |-- BundleCorruptError                           a file differs from what the manifest recorded
    |   |-- BundleVersionError                           written by a newer builder
    |   `-- BundleTargetError                            compiled for another engine or machine
    |-- FrameError (ValueError)         1   an image that cannot be inspected
    |-- SourceError (OSError)           1   a camera, video or folder that cannot be opened or vanished
    |-- FlightLogError (OSError)        1   a flight log that cannot be written, read or understood
    |-- BackendError (RuntimeError)     1   the inference engine failed
    |-- MissingDependencyError (ImportError) 1  an optional library is absent; names the extra
    |-- VerificationError (AssertionError)   3  a measured result is outside its tolerance
    `-- BudgetExceededError (MemoryError)    4  a plan or a measurement exceeds the byte budget

A message says what was found, what was expected and what to do about it.
"""

from __future__ import annotations


class EdgeRuntimeError(Exception):
    """Base of every error raised on purpose; ``exit_code`` is what a command returns for it."""

    exit_code = 1


class UsageError(EdgeRuntimeError, ValueError):
    """An option of a command has nothing to act on beside the others."""

    exit_code = 2


class CheckpointError(EdgeRuntimeError, ValueError):
    """A checkpoint is missing, truncated, or of an unsupported architecture."""


class RecipeError(EdgeRuntimeError, ValueError):
    """A recipe is unknown or asks for something contradictory."""


class SchemaError(EdgeRuntimeError, ValueError):
    """A report schema is missing, malformed, contradictory, or too much for a model's context."""


class CalibrationError(EdgeRuntimeError, ValueError):
    """Calibration data cannot be used, or a calibration cache is damaged or was made for something else."""


class BuildError(EdgeRuntimeError, OSError):
    """A build could not write its result; whatever was finished is kept for a resume."""


class BundleError(EdgeRuntimeError, ValueError):
    """A bundle must not be loaded; subclasses say why."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """There is no bundle at the path, or a file that its manifest names is missing."""


class BundleCorruptError(BundleError):
    """A file's size or hash differs from the manifest, or the manifest cannot be parsed."""


class BundleVersionError(BundleError):
    """The manifest's schema is newer than this runtime understands."""


class BundleTargetError(BundleError):
    """The bundle was compiled for another engine, engine version or device."""


class FrameError(EdgeRuntimeError, ValueError):
    """An image is empty, truncated, of an unsupported encoding, or holds values that are no image."""


class SourceError(EdgeRuntimeError, OSError):
    """A frame source cannot be opened, or stopped delivering."""


class FlightLogError(EdgeRuntimeError, OSError):
    """A flight log cannot be written (a full disk, say), read, or is damaged."""


class BackendError(EdgeRuntimeError, RuntimeError):
    """The inference engine refused or failed; the original error is chained."""


class MissingDependencyError(EdgeRuntimeError, ImportError):
    """An optional library is absent; the message names the extra that installs it."""


class VerificationError(EdgeRuntimeError, AssertionError):
    """A measured result is outside its tolerance."""

    exit_code = 3


class BudgetExceededError(EdgeRuntimeError, MemoryError):
    """A plan or a measurement exceeds the byte budget; the message carries the itemised memory plan."""

    exit_code = 4
