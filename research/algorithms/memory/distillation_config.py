"""The settings of Algorithm Distillation."""

from __future__ import annotations

from dataclasses import dataclass

from research.algorithms.memory.agent import MemoryAgentConfig
from research.algorithms.memory.sources import SourceConfig
from research.policies.memory import MemoryConfig
from research.validation import at_least


@dataclass(frozen=True)
class DistillationConfig(MemoryAgentConfig):
    """Settings of Algorithm Distillation, in addition to those of every agent with a memory.

    Attributes:
        meta_batch_size: Histories of a minibatch.
        policy: Settings of the network. Its value is not trained.
        source: The source algorithm.
        num_histories: Training tasks that the source learns, each a history.
        histories: Path of a file of histories, which then replace those of the source; see `sampling/histories.py`. An
            evaluation does not read the file, and does not have the returns of a source that is not known.
        keep_every: Every k-th episode of a history is kept, from one of its first k episodes on, which is drawn for
            each minibatch. A trial has `episodes_per_trial` of these.
        updates_per_iteration: Minibatches of an iteration; each is one step of Adam.
    """

    resume_settings = MemoryAgentConfig.resume_settings | {"histories"}

    meta_batch_size: int = 32
    meta_lr: float = 1e-3
    max_grad_norm: float = 1.0
    policy: MemoryConfig = MemoryConfig(memory="transformer")
    source: SourceConfig = SourceConfig()
    num_histories: int = 500
    histories: str = ""
    keep_every: int = 1
    updates_per_iteration: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "num_histories", "keep_every", "updates_per_iteration")
        if self.policy.separate_value:
            raise ValueError("policy.separate_value=True: the value is not trained; need False")
        if not self.histories:
            self.source.check_tasks(self.make_tasks())
            self.check_episodes(self.source.num_episodes, "source.num_episodes")

    def check_episodes(self, num_episodes: int, key: str) -> None:
        """Raises ValueError if a history of so many episodes is too short; `key` names the setting in the message."""
        needed = self.keep_every * self.episodes_per_trial
        if num_episodes < needed:
            raise ValueError(
                f"{key}={num_episodes}: need at least {needed} (keep_every={self.keep_every} × "
                f"episodes_per_trial={self.episodes_per_trial})"
            )
