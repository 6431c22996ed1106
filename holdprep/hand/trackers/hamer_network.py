"""HaMeR's network: MANO parameters from an image of a right hand (Pavlakos et al., Reconstructing Hands in 3D, CVPR 2024).

A vision transformer (ViT-H, Dosovitskiy et al. 2021, as trained by ViTPose) converts a crop into 16 x 12 tokens; a query token
attends to them, and linear layers give corrections to a mean hand: 16 rotations of six numbers (Zhou et al. 2019), ten shape
coefficients and a weak-perspective camera. Results and weights are those of the published model; the code is this project's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import roma
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdprep.errors import HoldprepError
from holdprep.hand.trackers import checkpoint
from holdprep.io.bounded import read_yaml, refuse_interpolations

CROP_HEIGHT, CROP_WIDTH, PATCH_PX = 256, 192, 16
ROTATIONS, SHAPES = 16, 10
MAX_SIZE = 16384  # of a layer, far beyond the published ones
ADVICE = (
    "get hamer_demo_data.tar.gz by https://github.com/geopavlakos/hamer (fetch_demo_data.sh), unpack it, and set hand.checkpoint to its "
    "_DATA/hamer_ckpts/checkpoints/hamer.ckpt"
)


@dataclass(frozen=True)
class Sizes:
    """Widths, layers and heads of the two transformers; the defaults are the published ones."""

    dim: int = 1280
    depth: int = 32
    heads: int = 16
    head_dim: int = 64
    decoder_dim: int = 1024
    decoder_depth: int = 6
    decoder_heads: int = 8
    decoder_mlp: int = 1024


@dataclass(frozen=True)
class Prediction:
    """N right hands.

    `rotations` (N, 16, 3, 3) of the wrist and of each bone in its parent's frame, hand mean included; `betas` (N, 10); `camera` (N, 3):
    scale, and shift right and down in metres, of a weak-perspective camera whose square crop is [-1, 1].
    """

    rotations: Tensor
    betas: Tensor
    camera: Tensor


class Backbone(nn.Module):
    """Crops (N, 3, 256, 192) to tokens (N, 192, dim), row by row."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        tokens = (CROP_HEIGHT // PATCH_PX) * (CROP_WIDTH // PATCH_PX)
        self.patches = nn.Conv2d(3, sizes.dim, PATCH_PX, stride=PATCH_PX, padding=2)
        self.positions = nn.Parameter(torch.zeros(1, 1 + tokens, sizes.dim))  # the first belongs to a class token that is not used
        layer = nn.TransformerEncoderLayer(
            sizes.dim, sizes.heads, 4 * sizes.dim, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True, dropout=0.0
        )
        norm = nn.LayerNorm(sizes.dim, eps=1e-6)
        self.blocks = nn.TransformerEncoder(layer, sizes.depth, norm, enable_nested_tensor=False)

    def forward(self, crops: Tensor) -> Tensor:
        tokens = self.patches(crops).flatten(2).transpose(1, 2)
        return self.blocks(tokens + self.positions[:, 1:] + self.positions[:, :1])


def _attend(heads: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention of tokens (N, L, heads x width)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention to the image's tokens, and MLP, each residual on normalised input.

    Attention is narrower than the token, which torch's own layers do not support.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        dim, inner = sizes.decoder_dim, sizes.decoder_heads * sizes.head_dim
        self.heads = sizes.decoder_heads
        self.self_norm, self.cross_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.self_qkv, self.self_out = nn.Linear(dim, 3 * inner, bias=False), nn.Linear(inner, dim)
        self.cross_q, self.cross_out = nn.Linear(dim, inner, bias=False), nn.Linear(inner, dim)
        self.cross_kv = nn.Linear(sizes.dim, 2 * inner, bias=False)
        self.mlp_in, self.mlp_out = nn.Linear(dim, sizes.decoder_mlp), nn.Linear(sizes.decoder_mlp, dim)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        x = x + self.self_out(_attend(self.heads, *self.self_qkv(self.self_norm(x)).chunk(3, dim=-1)))
        x = x + self.cross_out(_attend(self.heads, self.cross_q(self.cross_norm(x)), *self.cross_kv(image).chunk(2, dim=-1)))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))


class Head(nn.Module):
    """Predictions of N hands from the tokens of N images."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        dim = sizes.decoder_dim
        self.token = nn.Linear(1, dim)
        self.position = nn.Parameter(torch.zeros(1, 1, dim))
        self.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(sizes.decoder_depth))
        self.pose, self.shape, self.camera = nn.Linear(dim, 6 * ROTATIONS), nn.Linear(dim, SHAPES), nn.Linear(dim, 3)
        for name, width in (("mean_pose", 6 * ROTATIONS), ("mean_shape", SHAPES), ("mean_camera", 3)):
            self.register_buffer(name, torch.zeros(1, width))

    def forward(self, tokens: Tensor) -> Prediction:
        x = self.token(tokens.new_zeros(len(tokens), 1, 1)) + self.position
        for layer in self.layers:
            x = layer(x, tokens)
        x = x[:, 0]
        six = (self.pose(x) + self.mean_pose).reshape(-1, ROTATIONS, 2, 3)
        return Prediction(roma.special_gramschmidt(six.mT), self.shape(x) + self.mean_shape, self.camera(x) + self.mean_camera)


class Hamer(nn.Module):
    """Crops of right hands, (N, 3, 256, 192) RGB normalised as ImageNet's, to MANO. The head is always float32."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.backbone = Backbone(sizes)
        self.head = Head(sizes)

    def forward(self, crops: Tensor) -> Prediction:
        return self.head(self.backbone(crops.to(self.backbone.positions.dtype)).to(self.head.position.dtype))


_LAYER = r"head\.layers\.(\d+)\."
_THEIRS = r"mano_head.transformer.transformer.layers.\1"
NAMES: checkpoint.Names = (
    (r"backbone\.patches", "backbone.patch_embed.proj"),
    (r"backbone\.positions", "backbone.pos_embed"),
    (r"backbone\.blocks\.norm", "backbone.last_norm"),
    (r"backbone\.blocks\.layers\.(\d+)\.self_attn\.in_proj_", r"backbone.blocks.\1.attn.qkv."),
    (r"backbone\.blocks\.layers\.(\d+)\.self_attn\.out_proj", r"backbone.blocks.\1.attn.proj"),
    (r"backbone\.blocks\.layers\.(\d+)\.linear", r"backbone.blocks.\1.mlp.fc"),
    (r"backbone\.blocks\.layers\.(\d+)\.norm", r"backbone.blocks.\1.norm"),
    (_LAYER + "self_norm", _THEIRS + ".0.norm"),
    (_LAYER + "self_qkv", _THEIRS + ".0.fn.to_qkv"),
    (_LAYER + "self_out", _THEIRS + ".0.fn.to_out.0"),
    (_LAYER + "cross_norm", _THEIRS + ".1.norm"),
    (_LAYER + "cross_q", _THEIRS + ".1.fn.to_q"),
    (_LAYER + "cross_kv", _THEIRS + ".1.fn.to_kv"),
    (_LAYER + "cross_out", _THEIRS + ".1.fn.to_out.0"),
    (_LAYER + "mlp_norm", _THEIRS + ".2.norm"),
    (_LAYER + "mlp_in", _THEIRS + ".2.fn.net.0"),
    (_LAYER + "mlp_out", _THEIRS + ".2.fn.net.3"),
    (r"head\.token", "mano_head.transformer.to_token_embedding"),
    (r"head\.position", "mano_head.transformer.pos_embedding"),
    (r"head\.pose", "mano_head.decpose"),
    (r"head\.shape", "mano_head.decshape"),
    (r"head\.camera", "mano_head.deccam"),
    (r"head\.mean_pose", "mano_head.init_hand_pose"),
    (r"head\.mean_shape", "mano_head.init_betas"),
    (r"head\.mean_camera", "mano_head.init_cam"),
)


def load(path: Path) -> Hamer:
    """The network with a published checkpoint's weights, float32 on the CPU; its model_config.yaml is in the same folder or one up.

    Raises HoldprepError where a file is missing, truncated, or of another model or network.
    """
    if not path.is_file():
        raise HoldprepError(f"{path} does not exist: {ADVICE}")
    sizes = _sizes(settings_file(path))
    with torch.device("meta"):  # weights are replaced below
        network = Hamer(sizes)
    checkpoint.fill(network, checkpoint.read(path, ADVICE), NAMES, path, "HaMeR")
    return network.eval()


def settings_file(path: Path) -> Path:
    """model_config.yaml of a checkpoint."""
    candidates = [path.parent / "model_config.yaml", path.parent.parent / "model_config.yaml"]
    return next((p for p in candidates if p.is_file()), candidates[0])


def _sizes(path: Path) -> Sizes:
    """Sizes from model_config.yaml. The published file has none for the backbone; then they are ViT-H's."""
    if not path.is_file():
        raise HoldprepError(f"{path} does not exist: it is published with HaMeR's checkpoint, one folder up; copy it to the checkpoint")
    tree = read_yaml(path)
    refuse_interpolations(path, tree)
    try:
        model = tree["MODEL"]
        head, backbone = model["MANO_HEAD"], model["BACKBONE"]
        decoder = head["TRANSFORMER_DECODER"]
        sizes = Sizes(
            dim=decoder["context_dim"],
            depth=backbone.get("DEPTH", Sizes.depth),
            heads=backbone.get("NUM_HEADS", Sizes.heads),
            head_dim=decoder["dim_head"],
            decoder_dim=decoder.get("dim", Sizes.decoder_dim),
            decoder_depth=decoder["depth"],
            decoder_heads=decoder["heads"],
            decoder_mlp=decoder["mlp_dim"],
        )
        wrong = [name for name, value in vars(sizes).items() if type(value) is not int or not 0 < value <= MAX_SIZE]
        if wrong:
            raise TypeError(f"{wrong[0]} is no number from 1 to {MAX_SIZE}")
    except (KeyError, TypeError, AttributeError) as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        raise HoldprepError(f"{path} is not a model_config.yaml of HaMeR ({detail}); get it again") from error
    for what, found, known in _choices(model, head, backbone, decoder):
        if found != known:
            raise HoldprepError(
                f"{path}: {what} is {repr(found)[:60]}, only HaMeR's published {known!r} is supported; use the published checkpoint"
            )
    return sizes


def _choices(
    model: Mapping[str, Any], head: Mapping[str, Any], backbone: Mapping[str, Any], decoder: Mapping[str, Any]
) -> list[tuple[str, object, object]]:
    """(key, value in the file, supported value) of settings that change the network."""
    return [
        ("MODEL.BACKBONE.TYPE", backbone.get("TYPE"), "vit"),
        ("MODEL.IMAGE_SIZE", model.get("IMAGE_SIZE"), CROP_HEIGHT),
        ("MODEL.MANO_HEAD.TYPE", head.get("TYPE"), "transformer_decoder"),
        ("MODEL.MANO_HEAD.JOINT_REP", head.get("JOINT_REP", "6d"), "6d"),
        ("MODEL.MANO_HEAD.IEF_ITERS", head.get("IEF_ITERS", 1), 1),
        ("MODEL.MANO_HEAD.TRANSFORMER_INPUT", head.get("TRANSFORMER_INPUT", "zero"), "zero"),
        ("MODEL.MANO_HEAD.TRANSFORMER_DECODER.norm", decoder.get("norm", "layer"), "layer"),
    ]
