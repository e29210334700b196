"""Children of `tocsin up`: what a signal may not do to them."""

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from workers.process import Process, stop


class Interrupting(Mapping[str, str]):
    """An environment that gets us a Ctrl-C while a child is being started with it."""

    def __iter__(self) -> Iterator[str]:
        signal.raise_signal(signal.SIGINT)
        return iter(os.environ)

    def __getitem__(self, name: str) -> str:
        return os.environ[name]

    def __len__(self) -> int:
        return len(os.environ)


def test_ctrl_c_in_the_moment_of_a_start_comes_after_it_so_that_the_child_is_known(tmp_path: Path) -> None:
    child = Process("child", ["sleep", "60"], tmp_path / "log", Interrupting())
    with pytest.raises(KeyboardInterrupt):
        child.launch()
    assert child.pid
    assert child.ended() is None
    assert stop([child], 5) == []
    assert child.ended() == -signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
