"""Rendering: three templates and an event's data become what a person reads.

Templates are reviewed like code, their data is not. So the sandbox keeps data from being more than text, and
stops the cheap ways to fill the memory by mistake (`'-' * data.n`); it does not stop an author who wants to.
Nothing random and no clock: the same data renders the same text, so a repeated batch changes nothing.
"""

import re
import traceback
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import msgspec
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS, do_round, do_urlencode
from jinja2.meta import find_referenced_templates, find_undeclared_variables
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines import links
from schema.errors import TemplateError

PARTS = ("title", "message", "action_url")
LONGEST_TITLE = 255
LONGEST_MESSAGE = 10_000
LONGEST_OUTPUT = 100_000
"""Characters a template may produce before its text is cut to the above."""

_TEXT = {"capitalize", "e", "escape", "lower", "replace", "string", "title", "trim", "truncate", "upper"}
_LISTS = {"dictsort", "first", "groupby", "items", "join", "last", "list", "reverse", "sort", "unique"}
_CHOICE = {"default", "d", "map", "reject", "rejectattr", "select", "selectattr"}
_NUMBERS = {"abs", "float", "int", "length", "max", "min", "sum", "wordcount"}
_PADDING = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]*")
_QUOTED = re.compile(r"'.*'|\".*\"", re.DOTALL)


class Content(msgspec.Struct, frozen=True):
    """What a person reads: plain text, never HTML. `action_url` has passed links.check."""

    title: str
    message: str
    action_url: str | None


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja for every template below `root`, read and compiled once; rendering is safe from several threads.

    Raises TemplateError (`templates/x/title.txt.j2:3: …`) for a template that cannot be read or compiled.
    """

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, root: Path) -> None:
        sources = {file.relative_to(root).as_posix(): _read(root, file) for file in root.rglob("*.j2")}

        def load(name: str) -> tuple[str, str, None] | None:
            return (sources[name], f"{root.name}/{name}", None) if name in sources else None

        super().__init__(
            loader=jinja2.FunctionLoader(load),
            undefined=jinja2.StrictUndefined,
            autoescape=lambda name: (name or "").endswith(".html.j2"),
            finalize=lambda value: "" if value is None else value,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            cache_size=-1,
        )
        self.folder = root.name
        self.sources = sources
        self.filters = {name: FILTERS[name] for name in _TEXT | _LISTS | _CHOICE | _NUMBERS}
        self.filters |= {"plural": plural, "round": _round, "urlencode": _urlencode}
        del self.globals["lipsum"]
        for name in list(sources):
            self.compiled(name)

    def compiled(self, name: str) -> jinja2.Template:
        """Raises TemplateError for one that is no Jinja."""
        try:
            return self.get_template(name)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{error.filename}:{error.lineno}: {error.message}") from None
        except Exception as error:
            raise TemplateError(f"{self.folder}/{name}:1: {_reason(error)}") from None

    def written(self, where: str, source: str) -> jinja2.Template:
        """A template that stands in another file: `where` is named when it fails. Raises TemplateError."""
        self.sources[where] = source
        return self.compiled(where)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`data.items` is the key "items", never a method of Python's dict."""
        if type(obj) is dict:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _PADDING and bool(super().is_safe_attribute(obj, attr, value))

    def wrap_str_format(self, value: Any) -> None:
        """str.format pads to any width."""
        if super().wrap_str_format(value) is not None:
            raise SecurityError("text has no format() here: write {{ … }} instead")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise SecurityError("% does not format text here: write {{ … }} instead")
        if operator == "**" and max(abs(left), abs(right)) > 1000:
            raise SecurityError("** takes numbers up to 1000")
        if operator == "*" and _is_too_large(left, right):
            raise SecurityError("the result of * is too large")
        return super().call_binop(context, operator, left, right)

    def may_read(self, name: str, variable: str) -> bool:
        """Whether what the template renders can depend on `variable`. One that uses another template might."""
        tree = self.parse(self.sources[name])
        return variable in find_undeclared_variables(tree) or any(True for _ in find_referenced_templates(tree))


class Wording:
    """A title, message and action URL, from the templates of these three names. `personal`: they may differ from
    one recipient of an event to the next.

    Raises TemplateError for a file that is missing.
    """

    def __init__(self, sandbox: Sandbox, names: Sequence[str], hosts: frozenset[str]) -> None:
        self._title, self._message, self._action_url = (_template(sandbox, name) for name in names)
        self._globals = dict(sandbox.globals)
        self._hosts = hosts
        self.personal = any(sandbox.may_read(name, "recipient") for name in names)

    def render(self, variables: Mapping[str, object]) -> Content:
        """Title: one line of 1 to 255 characters. Message: at most 10,000. Control characters and those that
        override the direction of text are gone from both. Raises TemplateError, and nothing else."""
        known = {**self._globals, **variables}
        title = _shortened(_one_line(_output(self._title, known)), LONGEST_TITLE)
        if not title:
            raise TemplateError(f"{self._title.filename}:1: gives an empty title")
        message = _shortened(_visible(_output(self._message, known)).strip(), LONGEST_MESSAGE)
        url = _output(self._action_url, known).strip()
        if url and (fault := links.check(url, self._hosts)):
            raise TemplateError(f"{self._action_url.filename}:1: the action URL {fault}")
        return Content(title, message, url or None)


def plural(count: int, one: str, many: str = "") -> str:
    """`1 other`, `4 others`; `many` where it is not `one` with an s."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def _read(root: Path, file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        where = f"{root.name}/{file.relative_to(root).as_posix()}"
        raise TemplateError(f"{where}: cannot be read as UTF-8 text ({type(error).__name__})") from None


def _template(sandbox: Sandbox, name: str) -> jinja2.Template:
    try:
        return sandbox.get_template(name)
    except jinja2.TemplateNotFound:
        raise TemplateError(f"{sandbox.folder}/{name}: is missing") from None


def _output(template: jinja2.Template, known: dict[str, object]) -> str:
    """`known`: the variables, and Jinja's globals."""
    pieces, length = [], 0
    try:
        # What Template.generate does, without its second generator, and without merging the globals into the
        # variables once for each template: this is the hottest loop of fan_out.
        context = Context(template.environment, known, template.name, template.blocks)
        for piece in template.root_render_func(context):
            length += len(piece)
            if length > LONGEST_OUTPUT:
                break
            pieces.append(piece)
    except Exception:
        try:
            template.environment.handle_exception()
        except Exception as error:
            raise TemplateError(f"{_where(template, error)}: {_reason(error)}") from None
    if length > LONGEST_OUTPUT:
        raise TemplateError(f"{template.filename}:1: gives more than {LONGEST_OUTPUT:,} characters")
    return "".join(pieces)


def _where(template: jinja2.Template, error: Exception) -> str:
    """file:line. Jinja has put the templates' own lines into the traceback; the innermost went wrong."""
    where = f"{template.filename}:1"
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.endswith(".j2"):
            where = f"{frame.f_code.co_filename}:{line}"
    return where


def _reason(error: Exception) -> str:
    """One line. Python quotes values in its messages; a value is content, so it stays out."""
    if isinstance(error, jinja2.TemplateNotFound):
        return f"there is no template {error.message!r}"
    if isinstance(error, jinja2.TemplateError):
        text = str(error)
    elif isinstance(error, TypeError):
        text = f"TypeError: {error}"
    else:
        text = f"{type(error).__name__}: {_QUOTED.sub('…', str(error))}"
    return _shortened(_one_line(text), 200)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if line.isprintable() else " ".join(_visible(line).split())


def _visible(text: str) -> str:
    return text if text.isprintable() else _INVISIBLE.sub("", text)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def _is_too_large(left: Any, right: Any) -> bool:
    repeats = isinstance(left, Sized) or isinstance(right, Sized)
    factors = [len(side) if isinstance(side, Sized) else side for side in (left, right)]
    return bool(abs(factors[0] * factors[1]) > (LONGEST_OUTPUT if repeats else 10**300))


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    if abs(precision) > 20:
        raise SecurityError("round takes a precision up to 20")
    return do_round(value, precision, method)


def _urlencode(value: Any) -> str:
    """Jinja's keeps slashes in text; here one value stays one part of a path."""
    if isinstance(value, Mapping):
        return do_urlencode(value)
    text = str(value)
    return text if _UNRESERVED.fullmatch(text) else quote(text, safe="")
