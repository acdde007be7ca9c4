"""What stops a study. Points that fail do not: they are results."""

from __future__ import annotations


class StudyError(RuntimeError):
    """The study cannot go on; what is finished is kept. The message says what happened and what to do."""


class VersionMismatchError(StudyError):
    """A worker runs other code than the study."""
