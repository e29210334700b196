"""Strays: files in a folder of templates that nothing reads, most often because of a slip in the name."""

from difflib import get_close_matches
from pathlib import Path

from jinja2.meta import find_referenced_templates

from pipelines.rendering import PARTS, Sandbox
from schema.errors import TemplateError

_WORDS = tuple(f"{part}.txt.j2" for part in PARTS)
_MAIL = ("email.subject.txt.j2", "email.html.j2", "email.txt.j2")
_OF_TYPE = (*_WORDS, *(f"group.{word}" for word in _WORDS), *_MAIL)
_SHARED = {
    "_group": (*_WORDS, *_MAIL, "who.txt.j2"),
    "_digest": (*_WORDS, *_MAIL),
    "_layout": ("email.html.j2", "email.txt.j2", "lines.html.j2"),
}


def refuse_strays(root: Path, settings: str, sandbox: Sandbox) -> None:
    """Refuses what nobody reads: a template in a type's folder or a shared one, that no other template uses, and a
    *.toml beside the folders that is not `settings`. What is in other folders that start with `_` is the author's.
    `sandbox` holds the files below `root` alone. Raises TemplateError naming all."""
    wrong = [
        f"{root.name}/{file.name}: is read by nothing; did you mean {settings!r}?"
        for file in sorted(root.glob("*.toml"))
        if file.name != settings
    ]
    unknown = {name: hint for name in sorted(sandbox.sources) if (hint := _hint(name)) is not None}
    if unknown:
        used = {
            name
            for source in sandbox.sources.values()
            for name in find_referenced_templates(sandbox.parse(source))
        }
        wrong += [
            f"{root.name}/{name}: is read by nothing; {hint}" for name, hint in unknown.items() if name not in used
        ]
    if wrong:
        raise TemplateError("\n".join(wrong))


def _hint(name: str) -> str | None:
    """What to do with a template that stands where none is looked for; None: it may stand there."""
    folder, _, file = name.partition("/")
    if not file:
        return "a template belongs into the folder of a type"
    if folder[0] in "_." and folder not in _SHARED:
        near = get_close_matches(folder, _SHARED, 1, 0.8)
        return f"did you mean {near[0]!r}?" if near else None
    known = _SHARED.get(folder, _OF_TYPE)
    if file in known:
        return None
    near = get_close_matches(file, known, 1)
    return f"did you mean {near[0]!r}?" if near else "what templates share belongs into a folder such as '_parts'"
