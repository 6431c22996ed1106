"""Loads published weights into this project's networks: tensors by their published names, and whose weights a file holds if not these."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from holdprep.errors import HoldprepError
from holdprep.io import safeio

# (pattern of an own name, the published one; several where the own tensor is theirs one upon the other)
Names = Sequence[tuple[str, str | tuple[str, ...]]]

# Names of tensors that one model alone has: the first that is found identifies a checkpoint's model.
_MODELS = (
    ("WiLoR", r"^refine_net\."),
    ("HaWoR", r"^(motion_module|st_module)\."),
    ("HaMeR", r"^mano_head\."),
    ("HMR2 (4DHumans)", r"^smpl_head\."),
    ("MeshGraphormer", r"^trans_encoder\..*graph_conv"),
    ("METRO's body model", r"^(upsampling2|conv_learn_tokens)\."),
    ("METRO", r"^trans_encoder\."),
    ("ViTPose", r"^keypoint_head\."),
    ("HRNet", r"^incre_modules\."),
    ("a vision transformer without a head", r"^(backbone\.)?(pos_embed|blocks\.0\.)"),
)


def read(path: Path, advice: str) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name, whether bare or under Lightning's 'state_dict'.

    `advice` states where the file can be obtained. Raises HoldprepError where it is not there, cut short or not a checkpoint.
    """
    if not path.is_file():
        raise HoldprepError(f"{path} is not there: {advice}")
    content = safeio.load_checkpoint(path)
    state = content.get("state_dict", content)
    tensors = {str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    if not tensors:
        raise HoldprepError(f"{path} holds no weights, only {', '.join(map(str, list(content)[:5])) or 'nothing'}: {advice}")
    return tensors


def fill(network: nn.Module, published: Mapping[str, Tensor], names: Names, path: Path, model: str) -> None:
    """Give every tensor of `network`, which may be on the meta device, its published value in float32.

    Raises HoldprepError naming the model whose weights the file seems to hold, and the first tensor that is absent or of another shape.
    """
    filled: dict[str, Tensor] = {}
    for own, value in network.state_dict().items():
        if own.endswith("num_batches_tracked"):  # which only training reads
            filled[own] = torch.zeros((), dtype=value.dtype)
            continue
        sources = published_names(own, names)
        shape = (value.shape[0] // len(sources), *value.shape[1:]) if len(sources) > 1 else tuple(value.shape)
        for source in sources:
            if source not in published:
                raise _another(path, published, model, f"{source} is missing")
            if tuple(published[source].shape) != shape:
                raise _another(path, published, model, f"{source} is {tuple(published[source].shape)}, {shape} is needed")
        parts = [published[s].float() for s in sources]
        filled[own] = parts[0] if len(parts) == 1 else torch.cat(parts)
    network.load_state_dict(filled, assign=True)


def move(network: nn.Module, backbone: nn.Module, device: str, dtype: str) -> None:
    """Move a network to its device, and its backbone to the precision `dtype` ("auto": bfloat16 on CUDA, else float32).

    Raises HoldprepError where CUDA is asked for and torch has none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise HoldprepError("device=cuda: torch sees no CUDA device here; set device=cpu, or install a CUDA build of torch")
    automatic = "bfloat16" if device == "cuda" else "float32"
    network.to(device)
    backbone.to(getattr(torch, automatic if dtype == "auto" else dtype))


def published_names(own: str, names: Names) -> tuple[str, ...]:
    """What a tensor of ours is called in the published checkpoint; the first pattern that matches decides."""
    for pattern, published in names:
        match = re.match(pattern, own)
        if match:
            parts = (published,) if isinstance(published, str) else published
            return tuple(match.expand(p) + own[match.end() :] for p in parts)
    return (own,)


def _another(path: Path, published: Mapping[str, Tensor], model: str, tensor: str) -> HoldprepError:
    found = next((name for name, pattern in _MODELS if any(re.search(pattern, key) for key in published)), None)
    if found == model:
        return HoldprepError(f"{path} is {model}'s, but of another kind: {tensor}; use the published checkpoint with its own settings")
    whose = f"looks like {found}'s" if found else f"has {len(published)} tensors of an unknown model, first {next(iter(published))}"
    return HoldprepError(f"{path} is not {model}'s checkpoint, it {whose}: {tensor}; set hand.checkpoint to {model}'s")
