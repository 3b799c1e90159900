"""A copy of a network's modules that shares its tensors: what the engine works on, so that the network is never touched."""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager

from torch import Tensor, nn

from shaketable.forward import exchanged, slots
from shaketable.params import Params, state


class Unsuitable(Exception):
    """A faster level cannot carry this network; the message says why. Never seen outside of the engine."""


class Replica:
    """Modules of a network with the given params in them, in evaluation mode; tensors are exchanged by name.

    Parameters are shared with ``params``, buffers are copies, so nothing that the network writes leaves the replica.
    """

    def __init__(self, network: nn.Module, params: Params) -> None:
        shared = {id(t): t for t in (*network.parameters(), *network.buffers())}
        for module in network.modules():
            for value in vars(module).values():
                if isinstance(value, Tensor):  # one that is no parameter may not be copied by itself
                    shared.setdefault(id(value), value.detach().clone())
        try:
            self.network = copy.deepcopy(network, shared).eval()
        except Exception as error:  # any code may stand in a module's __deepcopy__
            raise Unsuitable(f"its modules cannot be copied ({type(error).__name__}: {error})") from error
        self.modules = list(self.network.modules())
        self.slots = slots(self.network)
        names = {id(tensor): name for name, tensor in (*self.network.named_parameters(), *self.network.named_buffers())}
        self.owned: list[tuple[str, ...]] = [  # by module: the names of the tensors that it holds itself
            tuple(names[id(t)] for t in (*m._parameters.values(), *m._buffers.values()) if t is not None)
            for m in self.modules
        ]
        mine = state(network)
        buffers = dict(network.named_buffers())
        self.buffers = frozenset(buffers)
        self.base: dict[str, Tensor] = {}
        for name in self.slots:
            tensor = params.get(name, mine[name] if name in mine else buffers[name]).detach()
            self.base[name] = tensor.clone() if name in buffers else tensor
            for table, key in self.slots[name]:
                table[key] = self.base[name]
        self._versions = [(tensor, 0 if tensor.is_inference() else tensor._version) for tensor in self.base.values()]

    @property
    def is_written(self) -> bool:
        """Whether the network's code wrote to a parameter or a buffer: then the replica is of no more use."""
        return any(not tensor.is_inference() and tensor._version != version for tensor, version in self._versions)

    def changed(self, tensors: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """The replica with some tensors exchanged, and the base's again afterwards."""
        return exchanged(self.slots, tensors)
