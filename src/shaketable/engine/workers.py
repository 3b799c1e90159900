"""What one thread works with: a copy of each level for a network, and logits to compare them with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

from shaketable.engine.replay import Half, Replay, halved
from shaketable.params import Params

if TYPE_CHECKING:
    from shaketable.engine.fused import Fused  # tracing costs seconds of imports: only where it is used

Names = frozenset[str]
T = TypeVar("T")


@dataclass
class Worker:
    """What one thread works with; without anything, the loop."""

    replay: Replay | None = None
    fused: "Fused | None" = None
    half: Half | None = None
    low: "Fused | None" = None

    def rebased(self, network: nn.Module, params: Params, changes: Params) -> "Worker":
        """The same levels with other ``params``, that differ in ``changes``; the graphs share what these leave as it is."""
        new = Worker()
        if self.replay is not None:
            new.replay = Replay(network, params, self.replay.keep_inplace)
            new.replay.alone = self.replay.alone
        if self.half is not None:
            low = {name: halved(tensor) for name, tensor in changes.items()}
            new.half = Half(network, {**self.half.replica.base, **low}, self.half.keep_inplace)
        if self.fused is not None:
            new.fused = self.fused.rebased(changes)
        if self.low is not None:
            new.low = self.low.rebased(changes, new.fused)
        return new

    def clear(self) -> None:
        """Let go of what was recorded."""
        for level in (self.replay, self.fused, self.half, self.low):
            if level is not None:
                level.clear()


class Logits(dict[Names, Tensor]):
    """Logits by layer, computed when asked for, and again where those before take ``room`` bytes: of many layers and a large
    vocabulary not all fit the memory."""

    def __init__(self, compute: Callable[[Names], Tensor], room: int) -> None:
        super().__init__()
        self._compute, self._room = compute, room

    def __missing__(self, names: Names) -> Tensor:
        found = self._compute(names)
        self.keep(names, found)
        return found

    def keep(self, names: Names, found: Tensor) -> None:
        """Keep what was computed, if there is room."""
        size = found.numel() * found.element_size()
        if size <= self._room:
            self._room -= size
            self[names] = found


def made(level: T | None) -> T:
    """A level that a layer was routed to, which is there."""
    assert level is not None
    return level
