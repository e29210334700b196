"""What can be wrong with input, said for the person who sent it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field: `field` is a path such as `data.userName` or `recipients[2]`."""

    field: str
    message: str

    def below(self, prefix: str) -> "FieldError":
        """The same error seen from the enclosing document: `events[3]` + `data.url` -> `events[3].data.url`."""
        return FieldError(f"{prefix}.{self.field}" if self.field else prefix, self.message)


class TocsinError(Exception):
    """Anything that is the fault of input or configuration; its text is fit to be shown as it is."""


class InvalidEvent(TocsinError):
    """The producer's fault: refused at the door with every field named, never retried."""

    def __init__(self, errors: list[FieldError]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in errors))


class TemplateError(TocsinError):
    """A template that cannot be loaded or rendered; the text starts with `file:line`."""
