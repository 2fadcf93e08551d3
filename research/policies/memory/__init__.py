"""Policies with a memory that learns the task within a trial: what is remembered, and what reads it, are settings.

At each step: inputs → memory → [belief] → head → action distribution and value. They know no environment and no loss.
"""

from __future__ import annotations

from research.policies.memory.config import MemoryConfig, check_context, check_spaces
from research.policies.memory.inputs import Inputs
from research.policies.memory.policy import Belief, MemoryPolicy, Output, make_memory_policy

__all__ = [
    "Belief",
    "Inputs",
    "MemoryConfig",
    "MemoryPolicy",
    "Output",
    "check_context",
    "check_spaces",
    "make_memory_policy",
]
