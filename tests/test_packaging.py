"""The top-level names are ours alone; the pinned versions are complete, and name no place they came from."""

import importlib.util
import re
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
OURS = ("schema", "pipelines", "workers")
BEFORE_3_11_3 = {"async-timeout"}
PINNED = re.compile(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)")
CONSTRAINTS = (ROOT / "constraints.txt").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NAMED = [text for text in [*PROJECT["dependencies"], *EXTRAS["push"], *EXTRAS["dev"]] if text != "tocsin[push]"]


@pytest.mark.parametrize("name", OURS)
def test_the_package_is_the_one_of_this_checkout(name):
    assert importlib.util.find_spec(name).origin == str(ROOT / name / "__init__.py")


@pytest.mark.parametrize("name", OURS)
def test_no_dependency_brings_such_a_package(name):
    assert set(packages_distributions().get(name, [])) <= {"tocsin"}


def test_constraints_are_pins_and_nothing_else():
    assert [line for line in CONSTRAINTS if not PINNED.fullmatch(line)] == []
    assert sorted(CONSTRAINTS) == CONSTRAINTS


def test_constraints_name_every_dependency_down_to_the_last():
    pinned = {PINNED.fullmatch(line)[1] for line in CONSTRAINTS}
    needed, seen = set(), set()
    waiting = [Requirement(text) for text in NAMED]
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        needed.add(key[0])
        try:
            below = [Requirement(text) for text in requires(requirement.name) or []]
        except PackageNotFoundError:
            continue
        extras = requirement.extras or {""}
        waiting += [each for each in below if any(wanted(each, extra) for extra in extras | {""})]
    assert needed <= pinned
    assert pinned - needed <= BEFORE_3_11_3


def wanted(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def test_the_pinned_versions_are_within_the_declared_ranges():
    pins = {PINNED.fullmatch(line)[1]: PINNED.fullmatch(line)[2] for line in CONSTRAINTS}
    for text in NAMED:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text
