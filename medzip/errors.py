"""Every way in which medzip can fail, each with the exit code that the command line returns for it.

The exit codes are the table of the README: 0 good, 1 usage, 2 input unsupported, 3 archive damaged, 4 verification failed,
5 model missing or mismatched, 6 input/output. A message names the file, what was expected, what was found and what to do;
it never holds a value of a header, so no patient's name can reach a log.
"""


class MedzipError(Exception):
    """Something that medzip foresees went wrong; nothing was written under a final name."""

    exit_code = 1


class UsageError(MedzipError):
    """The call itself makes no sense: an unknown preset, a slice range outside the volume, an output that exists."""

    exit_code = 1


class UnsupportedInputError(MedzipError):
    """The input is no file that medzip reads, or breaks the rules of its own format."""

    exit_code = 2


class ArchiveDamagedError(MedzipError):
    """The archive does not hold what was written: a checksum, a length or a structure is wrong."""

    exit_code = 3


class TruncatedArchiveError(ArchiveDamagedError):
    """The archive ends before its tail."""


class UnsupportedArchiveError(ArchiveDamagedError):
    """The archive is intact as far as can be told, but needs a newer medzip."""


class VerificationError(MedzipError):
    """What the decoder gives differs from the original."""

    exit_code = 4


class ModelMissingError(MedzipError):
    """The weights or the library that the archive needs are not installed."""

    exit_code = 5


class LibraryMissingError(ModelMissingError, ImportError):
    """An optional library that was asked for is not installed."""


class ModelMismatchError(MedzipError):
    """The model is here, but computes other numbers on this machine than where the archive was made."""

    exit_code = 5


class StorageError(MedzipError):
    """Reading or writing failed: no space, no permission, no such file."""

    exit_code = 6


class StorageFullError(StorageError):
    """No space, or none that this user may use, is left on the device."""
