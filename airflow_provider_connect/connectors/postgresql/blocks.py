"""Blocks: how one table is dealt out to several splits, without anybody having to agree on bounds.

The values of an integer cursor are cut into blocks of a fixed size, and block after block is dealt to the splits in
turn. Which split a row belongs to follows from its cursor and the configuration alone, so lanes and tasks need not ask
each other, new rows come to all splits, and each one reads its blocks by ranges of the cursor's index.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Blocks:
    """Every `count`-th block of `size` consecutive values, from the block `index` on."""

    index: int
    count: int
    size: int

    def at_or_after(self, value: int) -> tuple[int, int]:
        """The block of ours that holds `value`, or else the next: its first value, and the first one beyond it."""
        block = value // self.size
        mine = block + (self.index - block) % self.count
        return mine * self.size, (mine + 1) * self.size

    def holding(self, value: str) -> str:
        """Whether a value, in SQL, is in one of our blocks. Reads all rows; for counting only."""
        block = f"floor({value}::numeric / {self.size})"
        return f"mod(mod({block}, {self.count}) + {self.count}, {self.count}) = {self.index}"


def split_names(table: str, count: int, size: int) -> list[str]:
    """The names of the splits. Other blocks have other names, as their positions mean something else."""
    return [table] if count == 1 else [f"{table} {index}of{count}x{size}" for index in range(count)]
