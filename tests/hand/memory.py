"""Peak memory of torch tensors during a piece of code, counted from the results of all operations."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counter of the bytes of storages created by operations; `peak` is the maximum at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}
        self.total = self.peak = 0  # total: of those that lived when last looked at, and of what was made since

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in (t for t in tree_leaves(found) if isinstance(t, Tensor)):
            storage = t.untyped_storage()
            if storage._cdata not in known:
                self.made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self.total += storage.nbytes()
        if self.total > self.peak:
            self.made = {key: (ref, size) for key, (ref, size) in self.made.items() if not ref.expired()}
            self.total = sum(size for _, size in self.made.values())
            self.peak = max(self.peak, self.total)
        return found
