"""Shards or tar files and nothing beside them: all that is known of the clips stands in their table."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.user_recordings import OwnRecordings
from lightning_audio.errors import UserError


class Sharded(OwnRecordings):
    """Clips by `loader.shards`; where their table has no split, it is made here.

    Args:
        options: of OwnRecordings, `channel` aside: what is read of a clip stands in the table.
    """

    title, split_from_table = "shards", True

    def rows(self) -> Sequence[Clip]:
        """Raises UserError: without `loader.shards` there are none."""
        if self.shard_rows is not None:
            return self.shard_rows
        raise UserError(
            "data=sharded takes its clips from loader.shards=ADDRESS, in training: set that; check, explore "
            "and shard look at files."
        )
