"""Replay: one recorded pass of the base network; a variant runs only the module calls that depend on what it changes."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from shaketable.engine.replica import Replica, Unsuitable
from shaketable.engine.values import (
    alike,
    attributes_of,
    flatten,
    itself,
    mapped,
    random_states,
    same_values,
    tensors_among,
    unwritten,
    version_of,
    versions_of,
)
from shaketable.engine.variants import Combination, Variant, names_of, tensors_of_variant
from shaketable.forward import Inputs, forward, map_inputs, tensors_of
from shaketable.params import Params

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Modules whose output is linear in their parameters taken together."""
TERMS = 32
"""Outputs for terms of combinations that are kept."""
_NEVER = float("inf")


class _Call:
    """One module call of the base pass: when, with what, what came out, and whether it may stand for another call."""

    __slots__ = (
        "args",
        "copied",
        "end",
        "given",
        "key",
        "next",
        "output",
        "position",
        "reads",
        "returned",
        "reusable",
        "start",
    )

    def __init__(self, position: int, key: tuple[int, int], start: int) -> None:
        self.position, self.key, self.start = position, key, start
        self.end = self.next = -1
        self.args: list[Any] = []
        self.reads: set[str] = set()
        self.output: Any = None
        self.given: list[tuple[Tensor, int]] = []  # tensors among its arguments, with their versions when it began
        self.returned: list[tuple[Tensor, int]] = []  # likewise, of what it returned, when it ended
        self.reusable = self.copied = False


class _Reads(TorchDispatchMode):
    """Tells who reads which parameter, below all of Python: also a parent that reads its child's; and what is made."""

    def __init__(self, names: Mapping[int, str], read: Callable[[str], None], pass_on: "_PassedOn") -> None:
        super().__init__()
        self._names, self._read, self._pass_on = names, read, pass_on

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        used = [item for value in (*args, *(kwargs or {}).values()) for item in tensors_among(value)]
        for tensor in used:
            if (name := self._names.get(id(tensor))) is not None:
                self._read(name)
        found = func(*args, **(kwargs or {}))
        self._pass_on.operation(used, tensors_among(found))
        return found


class _PassedOn:
    """Whether module calls pass tensors on other than by returning them: by global state, which threads would share."""

    def __init__(self) -> None:
        self.secretly = False
        self._made: list[set[int]] = [set()]  # identities of tensors, by the call in progress that made them
        self._hidden: set[int] = set()  # made in a call that ended, and not returned

    def operation(self, used: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        self.secretly |= any(id(tensor) in self._hidden for tensor in used)
        new = {id(tensor) for tensor in made} - {id(tensor) for tensor in used}
        self._hidden -= new  # an identity may be used again
        self._made[-1] |= new

    def begin(self) -> None:
        self._made.append(set())

    def end(self, returned: Sequence[Any]) -> None:
        made, out = self._made.pop(), {id(leaf) for leaf in returned}
        self._hidden |= made - out
        self._made[-1] |= made & out


class Replay:
    """Logits of variants of a network, bit for bit those of running it whole.

    A recorded call is returned where it ended before anything that the variant changes was first read, or where it reads
    nothing changed and its inputs are the very tensors of the base pass, unwritten since. Everything else runs, in Python,
    as it stands. Calls with side effects (on arguments, attributes, or objects that cannot be seen through) always run.
    """

    name = "replay"

    def __init__(self, network: nn.Module, params: Params, keep_inplace: bool = False) -> None:
        self.replica, self.keep_inplace = Replica(network, params), keep_inplace
        self._calls: list[_Call] = []
        self._first: dict[str, int] = {}  # name: when it was first read
        self._copied: set[tuple[int, int]] = set()  # outputs that are written to after they were returned
        self._never: set[tuple[int, int]] = set()  # such outputs that share memory with something else
        self._stateful: tuple[nn.Module, ...] = ()
        self._basis: dict[tuple[int, int], tuple[Params, Tensor]] = {}
        self._mode, self._tick = "plain", 0
        # Whether it uses state that threads share; the cache of torch's parametrizations belongs to the whole process.
        self.alone = any(map(parametrize.is_parametrized, network.modules()))
        self._watched = (
            True  # whether random numbers are drawn shows in the first pass; later others may draw meanwhile
        )
        self._inputs: Inputs = ()
        self._given: Inputs | None = None  # what each pass gets, unless the network writes its inputs
        self._logits = torch.empty(0)
        self._passed = _PassedOn()
        self._ids = {id(tensor): name for name, tensor in self.replica.base.items()}
        prefixes = {id(module): path for path, module in self.replica.network.named_modules()}
        self._below: list[frozenset[str]] = []
        for module in self.replica.modules:
            inside = {id(part) for part in module.modules()}
            owned = zip(self.replica.modules, self.replica.owned, strict=True)
            self._below.append(frozenset(name for part, held in owned if id(part) in inside for name in held))
        for position, module in enumerate(self.replica.modules):
            if isinstance(module, torch.jit.ScriptModule) or id(module) not in prefixes:
                continue
            if (
                not keep_inplace
                and type(module).__module__.startswith("torch.nn.modules.")
                and hasattr(module, "inplace")
            ):
                vars(module)["inplace"] = False  # the same numbers, and the recorded input stays whole
            vars(module)["forward"] = self._wrapped(position, module.forward)

    def base(self, inputs: Inputs) -> Tensor:
        """Logits of the base network, recorded for the variants that follow.

        Raises:
            Unsuitable: the network draws random numbers or writes its own weights in evaluation mode.
        """
        self.clear()
        self._inputs = inputs
        logits = self._record()
        while self._find_writes():
            logits = self._record()
        self._logits = logits
        self._watched = False
        return logits

    def clear(self) -> None:
        """Let go of what was recorded."""
        self._calls, self._first = [], {}
        self._inputs, self._given, self._logits = (), None, torch.empty(0)
        self._basis.clear()
        self._terms: Sequence[tuple[float, Params]] = ()

    def recorded_bytes(self) -> int:
        """Memory that the recorded pass holds beside the weights and the inputs."""
        weights = {tensor.untyped_storage().data_ptr() for tensor in self.replica.base.values()}
        held: dict[int, int] = {}
        for call in self._calls:
            leaves: list[Any] = []
            flatten(call.output, leaves)
            for leaf in (*leaves, *call.args):
                if isinstance(leaf, Tensor):
                    held[leaf.untyped_storage().data_ptr()] = leaf.untyped_storage().nbytes()
        return sum(size for pointer, size in held.items() if pointer not in weights)

    def logits(self, variant: Variant) -> Tensor:
        """Logits of a variant on the batch of the base pass.

        Of a :class:`Combination` in one linear operator whose input is the base's, the operator's output is the same
        combination of its outputs for each term, computed once a batch: equal to the rounding of float32, not bit for bit.
        """
        for _ in range(3):
            logits, sound = self._replay(variant)
            if sound:
                return logits
            self.base(self._inputs)  # the variant wrote into a recorded tensor: record again, now with copies
        raise Unsuitable("variants write into tensors of the base pass")

    def many(self, variants: Sequence[Variant]) -> Tensor:
        """Logits [V, N, C] of several variants of the same tensors in one pass, by :func:`torch.vmap`.

        Equal to those of each alone to the rounding of float32. Code that vmap cannot carry (in-place addition of a changed
        tensor onto one that is not, Python numbers from tensors) raises.
        """
        tensors = [tensors_of_variant(variant) for variant in variants]
        stacked = {name: torch.stack([each[name] for each in tensors]) for name in tensors[0]}

        def one(changes: dict[str, Tensor]) -> Tensor:
            logits, sound = self._replay(changes)
            if not sound:
                raise Unsuitable("variants write into tensors of the base pass")
            return logits

        return torch.vmap(one, randomness="error")(stacked)

    def whole(self, variant: Variant, inputs: Inputs) -> Tensor:
        """Logits of a variant on other inputs than the base pass's, by running all of the network.

        Raises:
            Unsuitable: its modules keep things from one call to another.
        """
        if self._stateful:
            raise Unsuitable("its modules store things on themselves")
        changes = tensors_of_variant(variant)
        changes = {n: changes[n].clone() if n in self.replica.buffers else changes[n] for n in changes}
        with torch.no_grad(), self.replica.changed(changes):
            logits = forward(self.replica.network, map_inputs(torch.clone, inputs))
        self._refuse_writes()
        return logits

    # the recorded pass

    def _record(self) -> Tensor:
        replica = self.replica
        self._calls, self._first, self._tick, self._stack, self._counts = [], {}, 0, [], {}
        self._passed = _PassedOn()
        before = [attributes_of(module) for module in replica.modules]
        random = random_states() if self._watched else []
        self._given = given = map_inputs(torch.clone, self._inputs)
        self._mode = "record"
        try:
            with torch.no_grad(), _Reads(self._ids, self._read, self._passed):
                logits = forward(replica.network, given)
        finally:
            self._mode = "plain"
        self.alone |= self._passed.secretly
        self._refuse_writes()
        if self._watched and not all(map(torch.equal, random, random_states())):
            raise Unsuitable("it draws random numbers in evaluation mode")
        if any(version_of(tensor) for tensor in tensors_of(given).values()):
            self._given = None  # it writes its inputs: each pass gets its own copy
        after = [attributes_of(module) for module in replica.modules]
        touched = tuple(
            module for module, one, two in zip(replica.modules, before, after, strict=True) if not alike(one, two)
        )
        if set(map(id, touched)) - set(map(id, self._stateful)):
            self._stateful = tuple({id(module): module for module in (*self._stateful, *touched)}.values())
            return self._record()
        return logits

    def _refuse_writes(self) -> None:
        """Raise once the network's code wrote to what every later pass would read."""
        if self.replica.is_written:
            raise Unsuitable("it writes its weights or buffers in evaluation mode")

    def _holds_base(self, position: int) -> bool:
        """Whether the tensors below a module are the base's, and not others that the code put there for a call."""
        slots, base = self.replica.slots, self.replica.base
        return all(table[key] is base[name] for name in self._below[position] for table, key in slots[name])

    def _read(self, name: str) -> None:
        self._tick += 1
        self._first.setdefault(name, self._tick)
        for call in self._stack:
            call.reads.add(name)

    def _recorded_call(self, position: int, original: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        nth = self._counts[position] = self._counts.get(position, -1) + 1
        self._tick += 1
        call = _Call(position, (position, nth), self._tick)
        self._calls.append(call)
        for name in self.replica.owned[position]:
            self._first.setdefault(name, self._tick)
        seen_through = flatten((args, kwargs), call.args)
        call.given = versions_of(call.args)
        attributes = [attributes_of(module) for module in self._stateful]
        self._stack.append(call)
        self._passed.begin()
        for leaf in call.args:
            if (name := self._ids.get(id(leaf))) is not None:
                self._read(name)  # handed over as an argument
        leaves: list[Any] = []
        try:
            output = original(*args, **kwargs)
            plain = flatten(output, leaves)
        finally:
            self._stack.pop()
            self._passed.end(leaves)
        self._tick += 1
        call.end, call.next = self._tick, len(self._calls)
        again: list[Any] = []
        flatten((args, kwargs), again)
        call.reusable = (
            seen_through
            and plain
            and call.key not in self._never
            and same_values(again, call.args)
            and unwritten(call.given)
            and self._holds_base(position)
            and all(map(alike, attributes, map(attributes_of, self._stateful)))
        )
        call.copied = call.key in self._copied
        call.output = mapped(output, torch.clone) if call.copied else output
        call.returned = versions_of(leaves)
        return output

    def _find_writes(self) -> bool:
        """Note the outputs that were written to after they were returned; whether there are new ones."""
        found = False
        own = {tensor.untyped_storage().data_ptr() for tensor in self.replica.base.values()}
        for call in self._calls:
            if call.copied or not call.reusable or unwritten(call.returned):
                continue
            given = {tensor.untyped_storage().data_ptr() for tensor, _ in call.given} | own
            storages = [tensor.untyped_storage().data_ptr() for tensor, _ in call.returned]
            shares = len(set(storages)) < len(storages) or not given.isdisjoint(storages)
            (self._never if shares else self._copied).add(call.key)
            found = True
        return found

    # a variant

    def _replay(self, variant: Variant) -> tuple[Tensor, bool]:
        """Logits of a variant, and whether the recorded pass is as it was."""
        self._changed = frozenset(names_of(variant))
        self._starts = min((self._first.get(name, _NEVER) for name in self._changed), default=_NEVER)
        if self._starts == _NEVER:
            return self._logits, True
        self._cursor, self._limit = 0, len(self._calls)
        self._used: list[_Call] = []
        self._terms = (
            variant.terms if isinstance(variant, Combination) and variant.is_steady and self._one_linear_call() else ()
        )
        changes = {} if self._terms else tensors_of_variant(variant)
        changes = {n: changes[n].clone() if n in self.replica.buffers else changes[n] for n in changes}
        given = map_inputs(torch.clone, self._inputs) if self._given is None else self._given
        self._mode = "replay"
        try:
            with torch.no_grad(), self.replica.changed(changes):
                logits = forward(self.replica.network, given)
        finally:
            self._mode = "plain"
        self._refuse_writes()
        if any(version_of(changes[name]) for name in self.replica.buffers.intersection(changes)):
            raise Unsuitable("it writes its weights or buffers in evaluation mode")
        written = [call for call in self._used if not call.copied and not unwritten(call.returned)]
        self._copied.update(call.key for call in written)
        inputs_written = self._given is not None and any(version_of(t) for t in tensors_of(self._given).values())
        return logits, not written and not inputs_written

    def _wrapped(self, position: int, original: Callable[..., Any]) -> Callable[..., Any]:
        """What stands in a module's place of ``forward``."""

        @functools.wraps(original)
        def called(*args: Any, **kwargs: Any) -> Any:
            if self._mode == "plain":
                return original(*args, **kwargs)
            if self._mode == "record":
                return self._recorded_call(position, original, args, kwargs)
            return self._replayed_call(position, original, args, kwargs)

        return called

    def _replayed_call(self, position: int, original: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """The recorded output of the call that this one repeats, or the call itself."""
        index = self._cursor  # the code took another way? the next recorded call of this module, inside of its parent's
        while index < self._limit and self._calls[index].position != position:
            index = self._calls[index].next
        outer = self._cursor, self._limit
        if index >= self._limit:
            self._limit = self._cursor  # nothing was recorded for this call, nor for those inside of it
            try:
                return original(*args, **kwargs)
            finally:
                self._cursor, self._limit = outer
        call = self._calls[index]
        if call.reusable and (call.end < self._starts or self._unaffected(call, args, kwargs)):
            self._cursor = call.next
            self._used.append(call)
            return mapped(call.output, torch.clone) if call.copied else mapped(call.output, itself)
        self._cursor, self._limit = index + 1, call.next
        try:
            if self._terms and not self._changed.isdisjoint(self.replica.owned[position]):
                return self._combined(index, original, args, kwargs)
            return original(*args, **kwargs)
        finally:
            self._cursor, self._limit = call.next, outer[1]

    def _unaffected(self, call: _Call, args: tuple, kwargs: dict) -> bool:
        """Whether a call behind the change reads nothing changed, and gets the very tensors of the base pass."""
        if self._stateful or not self._changed.isdisjoint(call.reads | self._below[call.position]):
            return False
        leaves: list[Any] = []
        return flatten((args, kwargs), leaves) and same_values(leaves, call.args) and unwritten(call.given)

    def _one_linear_call(self) -> bool:
        """Whether one recorded call reads the changed tensors, is linear in them, and gets its input from the base."""
        names = self._changed
        calls = [i for i, call in enumerate(self._calls) if not names.isdisjoint(self.replica.owned[call.position])]
        if len(calls) != 1 or any(len(self.replica.slots[name]) > 1 for name in names):
            return False
        call = self._calls[calls[0]]
        module = self.replica.modules[call.position]
        linear = next((kind for kind in LINEAR if isinstance(module, kind)), None)
        if linear is None or getattr(type(module), "forward", None) is not linear.forward or not call.reusable:
            return False
        readers = [other for other in self._calls if not names.isdisjoint(other.reads)]
        around = all(other is call or other.start < call.start < other.end for other in readers)
        return around and names == set(self.replica.owned[call.position]) and self._starts >= call.start

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Calls as they stand, for a moment."""
        mode, self._mode = self._mode, "plain"
        try:
            yield
        finally:
            self._mode = mode

    def _combined(self, index: int, original: Callable[..., Any], args: tuple, kwargs: dict) -> Tensor:
        """The weighted sum of a linear operator's outputs for each term."""
        total: Tensor | None = None
        for weight, params in self._terms:
            kept = self._basis.get((index, id(params)))
            if kept is None:
                if len(self._basis) >= TERMS or any(key[0] != index for key in self._basis):
                    self._basis.clear()  # another layer's turn
                with self.replica.changed(params), self._plainly():
                    kept = self._basis[index, id(params)] = (params, original(*args, **kwargs))
            total = kept[1] * weight if total is None else total.add_(kept[1], alpha=weight)
        assert total is not None
        return total


class Half(Replay):
    """Replay in bfloat16, of params that are in it already: logits are rough. Nothing is traced: any Python code."""

    name = "half"
    plain = False
    """All that it runs is rounded."""

    def base(self, inputs: Inputs) -> Tensor:
        """Logits of the base network in float32, computed in bfloat16; see :class:`Replay`."""
        return super().base(map_inputs(halved, inputs)).float()

    def logits(self, variant: Variant) -> Tensor:
        """Logits of a variant in float32, computed in bfloat16; see :class:`Replay`."""
        changes = tensors_of_variant(variant)
        return super().logits({name: halved(tensor) for name, tensor in changes.items()}).float()


def halved(tensor: Tensor) -> Tensor:
    """Floats of 32 bits in bfloat16, others as they are."""
    return tensor.bfloat16() if tensor.dtype == torch.float32 else tensor
