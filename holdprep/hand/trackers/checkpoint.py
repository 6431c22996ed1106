"""Loading of published weights into this project's networks, with identification of the model of other files."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from holdprep.errors import HoldprepError, listed
from holdprep.io import safeio

# (pattern of an own name, the published name, or several whose tensors are concatenated)
Names = Sequence[tuple[str, str | tuple[str, ...]]]

# Patterns of tensor names that only one model has: the first that matches identifies a checkpoint's model.
_MODELS = (
    ("WiLoR", r"^(refine_net\.|backbone\.(pose_emb|shape_emb|cam_emb|decpose|decshape|deccam)\b)"),
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
    """Tensors of a checkpoint by name, at top level or under Lightning's 'state_dict'.

    `advice` states where the file can be obtained. Raises HoldprepError where it is missing, truncated or not a checkpoint.
    """
    if not path.is_file():
        raise HoldprepError(f"{path} does not exist: {advice}")
    content = safeio.load_checkpoint(path)
    state = content.get("state_dict", content)
    tensors = {str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    if not tensors:
        raise HoldprepError(f"{path} holds no weights, only {listed(content) or 'nothing'}: {advice}")
    return tensors


def fill(network: nn.Module, published: Mapping[str, Tensor], names: Names, path: Path, model: str) -> None:
    """Set every tensor of `network`, which may be on the meta device, to its published value in float32.

    Raises HoldprepError with the model that the file seems to be of, and the first tensor that is missing or of another shape.
    """
    filled: dict[str, Tensor] = {}
    for own, value in network.state_dict().items():
        if own.endswith("num_batches_tracked"):  # used in training only
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

    Raises HoldprepError where CUDA is requested and not available.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise HoldprepError("device=cuda: torch has no CUDA device; set device=cpu, or install a CUDA build of torch")
    automatic = "bfloat16" if device == "cuda" else "float32"
    network.to(device)
    backbone.to(getattr(torch, automatic if dtype == "auto" else dtype))


def published_names(own: str, names: Names) -> tuple[str, ...]:
    """The published names of a tensor of this project's network, by the first pattern that matches."""
    for pattern, published in names:
        match = re.match(pattern, own)
        if match:
            parts = (published,) if isinstance(published, str) else published
            return tuple(match.expand(p) + own[match.end() :] for p in parts)
    return (own,)


def _another(path: Path, published: Mapping[str, Tensor], model: str, tensor: str) -> HoldprepError:
    found = next((name for name, pattern in _MODELS if any(re.search(pattern, key) for key in published)), None)
    if found == model:
        return HoldprepError(
            f"{path} is a checkpoint of {model}, but of another variant: {tensor}; use the published checkpoint with its own settings"
        )
    if found == "WiLoR":  # AnyHand publishes further trained checkpoints of HaMeR and WiLoR, with their tensors
        advice = f"{tensor}; its demo's meshes are read by hand=import hand.format=wilor, AnyHand's anyhand_hamer.ckpt can be loaded here"
        return HoldprepError(f"{path} is not {model}'s checkpoint, it looks like WiLoR's or AnyHand's of WiLoR: {advice}")
    content = f"looks like {found}'s" if found else f"has {len(published)} tensors of an unknown model, first {next(iter(published))}"
    return HoldprepError(f"{path} is not {model}'s checkpoint, it {content}: {tensor}; set hand.checkpoint to {model}'s")
