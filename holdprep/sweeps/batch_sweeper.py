"""Jobs of a batch over sequences alone."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class BatchSweeper(BasicSweeper):
    """Hydra's own sweeper, for jobs that differ in the sequence alone: what one of them is composed of is right for all."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose one job; ten thousand take an hour."""
        super().validate_batch_is_legal(batch[:1])
