"""Tasks that belong to one owner: none is lost to the garbage collector, none fails unnoticed."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from workers import log


class Tasks:
    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.logger().error("task_failed", exc_info=error)

    async def stop(self) -> None:
        """Ends them all. Asks more than once: Python 3.11's `wait_for` can swallow a cancellation."""
        for _ in range(20):
            for task in self._running:
                task.cancel()
            if not self._running:
                return
            await asyncio.wait(self._running, timeout=0.5)
