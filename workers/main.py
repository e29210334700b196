"""The target of `dramatiq workers.main`: every actor, on the broker. `--queues` says which of them run here."""

import workers.chain
import workers.deliver  # noqa: F401
