"""What is decided: the stages, and fan_out at their end. No Dramatiq, no environment, no provider."""

from pipelines.grouping import grouping
from pipelines.preferences import preferences
from pipelines.rate_limits import rate_limits
from pipelines.stage import Stage

STAGES: tuple[Stage, ...] = (preferences, rate_limits, grouping)
"""The chain, in order; fan_out follows the last."""
