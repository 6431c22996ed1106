"""METRO's hand network (Lin et al., "End-to-End Human Pose and Mesh Reconstruction with Transformers", CVPR 2021).

HRNet (Wang et al., "Deep High-Resolution Representation Learning", 2020) computes 2048 features of a crop. Each of 21 joints and 195
vertices of a hand in rest pose is a token: its position and these features. Three transformer encoders of decreasing width (Devlin et al.,
BERT, 2018) convert the tokens into positions; a linear layer computes 778 vertices from the 195. Results and weights are those of the
published model; the code is this project's own (timm's HRNet requires torchvision).
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdprep.hand.trackers import checkpoint

CROP_PX = 224
JOINTS, COARSE, VERTICES = 21, 195, 778
ADVICE = (
    "METRO's download (scripts/download_models.sh of https://github.com/microsoft/MeshTransformer) does not work since 2025; set hand.checkpoint to "
    "your own models/metro_release/metro_hand_state_dict.bin"
)


@dataclass(frozen=True)
class Sizes:
    """Sizes of the network: channels of HRNet's finest branch, units of its stages, blocks of a branch; widths, layers, heads of encoders.

    The defaults are the published ones (HRNet-W64).
    """

    width: int = 64
    units: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    encoders: tuple[int, int, int] = (1024, 256, 64)
    layers: int = 4
    heads: int = 4
    positions: int = 512


@dataclass(frozen=True)
class Prediction:
    """N right hands.

    `vertices_m` (N, 778, 3), relative to the wrist up to a small offset; `camera` (N, 3): scale, and shift right and down in metres, of an
    orthographic camera whose crop is [-1, 1].
    """

    vertices_m: Tensor
    camera: Tensor


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, relu: bool = True, bias: bool = False) -> nn.Sequential:
    """Convolution, batch normalisation, and by default a rectifier."""
    parts: list[nn.Module] = [nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, *([nn.ReLU()] if relu else []))


class Block(nn.Module):
    """A residual block of convolutions of the given sizes: two of 3 (basic), or 1, 3, 1 with four times as many outputs (bottleneck)."""

    def __init__(self, inputs: int, channels: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        outputs = channels * (4 if len(sizes) == 3 else 1)
        widths = [inputs, *[channels] * (len(sizes) - 1), outputs]
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for i, size in enumerate(sizes):
            parts[f"conv{i + 1}"] = nn.Conv2d(widths[i], widths[i + 1], size, padding=size // 2, bias=False)
            parts[f"bn{i + 1}"] = nn.BatchNorm2d(widths[i + 1])
            if i + 1 < len(sizes):
                parts[f"relu{i + 1}"] = nn.ReLU()
        self.body = nn.Sequential(parts)
        self.shortcut = nn.Identity() if inputs == outputs else _conv(inputs, outputs, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


BASIC, BOTTLENECK = (3, 3), (1, 3, 1)


class Exchange(nn.Module):
    """Blocks of branches of decreasing resolution, followed by sums of all branches at each resolution."""

    def __init__(self, widths: list[int], blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(Block(w, w, BASIC) for _ in range(blocks))) for w in widths)
        self.sums = nn.ModuleList(Sum(widths, end) for end in range(len(widths)))

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        deeper = [blocks(x) for blocks, x in zip(self.branches, branches, strict=True)]
        return [total(deeper) for total in self.sums]


class Sum(nn.Module):
    """Sum of all branches, resized to one of them."""

    def __init__(self, widths: list[int], end: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(_path(widths, start, end) for start in range(len(widths)))

    def forward(self, branches: list[Tensor]) -> Tensor:
        return F.relu(torch.stack([path(x) for path, x in zip(self.paths, branches, strict=True)]).sum(dim=0))


def _path(widths: list[int], start: int, end: int) -> nn.Module:
    """Layers from one branch's resolution to another's."""
    if start == end:
        return nn.Identity()
    if start > end:
        return nn.Sequential(*_conv(widths[start], widths[end], 1, relu=False), nn.Upsample(scale_factor=2 ** (start - end)))
    halvings = [_conv(widths[start], widths[start], 3, stride=2) for _ in range(end - start - 1)]
    return nn.Sequential(*halvings, _conv(widths[start], widths[end], 3, stride=2, relu=False))


class HRNet(nn.Module):
    """Features (N, 2048) of crops (N, 3, H, W), normalised as ImageNet's."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        widths, head = [sizes.width * 2**i for i in range(4)], (32, 64, 128, 256)
        self.stem = nn.Sequential(OrderedDict(one=_conv(3, 64, 3, stride=2), two=_conv(64, 64, 3, stride=2)))
        self.first = nn.Sequential(*(Block(64 if i == 0 else 256, 64, BOTTLENECK) for i in range(4)))
        self.start = _conv(256, widths[0], 3)
        self.descend = nn.ModuleList(_conv([256, *widths[1:]][i], widths[i + 1], 3, stride=2) for i in range(3))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Exchange(widths[: i + 2], sizes.blocks) for _ in range(units))) for i, units in enumerate(sizes.units)
        )
        self.widen = nn.ModuleList(Block(w, h, BOTTLENECK) for w, h in zip(widths, head, strict=True))
        self.join = nn.ModuleList(_conv(4 * head[i], 4 * head[i + 1], 3, stride=2, bias=True) for i in range(3))
        self.features = _conv(4 * head[3], 2048, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        deepest = self.first(self.stem(x))
        branches = [self.start(deepest)]
        for descend, stage in zip(self.descend, self.stages, strict=True):
            branches = stage([*branches, descend(deepest)])
            deepest = branches[-1]
        wide = [widen(x) for widen, x in zip(self.widen, branches, strict=True)]
        y = wide[0]
        for join, finer in zip(self.join, wide[1:], strict=True):
            y = finer + join(y)
        return self.features(y).mean(dim=(2, 3))


class Encoder(nn.Module):
    """Transformer layers from tokens (N, L, inputs) to (N, L, outputs), added to a linear map of the input."""

    def __init__(self, inputs: int, width: int, outputs: int, sizes: Sizes) -> None:
        super().__init__()
        self.embed, self.out, self.skip = nn.Linear(inputs, width), nn.Linear(width, outputs), nn.Linear(inputs, outputs)
        self.positions = nn.Parameter(torch.zeros(sizes.positions, width))
        layer = nn.TransformerEncoderLayer(
            width, sizes.heads, 4 * width, activation="gelu", layer_norm_eps=1e-12, batch_first=True, dropout=0.0
        )
        self.layers = nn.TransformerEncoder(layer, sizes.layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.layers(self.embed(tokens) + self.positions[: tokens.shape[1]])) + self.skip(tokens)


class Metro(nn.Module):
    """Crops of right hands (N, 3, 224, 224), RGB normalised as ImageNet's, to meshes. All but HRNet is float32."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.backbone = HRNet(sizes)
        ends = [3 + 2048, sizes.encoders[0] // 2, sizes.encoders[1] // 2, 3]
        self.encoders = nn.Sequential(*(Encoder(ends[i], w, ends[i + 1], sizes) for i, w in enumerate(sizes.encoders)))
        self.upsample = nn.Linear(COARSE, VERTICES)
        self.camera = nn.ModuleList([nn.Linear(3, 1), nn.Linear(COARSE + JOINTS, 150), nn.Linear(150, 3)])

    def forward(self, crops: Tensor, template_m: Tensor) -> Prediction:
        """`template_m` (216, 3): joints in OpenPose order and 195 vertices of the hand in rest pose, relative to its wrist."""
        features = self.backbone(crops.to(next(self.backbone.parameters()).dtype)).to(template_m.dtype)
        tokens = torch.cat([template_m.expand(len(crops), -1, -1), features[:, None].expand(-1, len(template_m), -1)], dim=2)
        positions = self.encoders(tokens)
        vertices = self.upsample(positions[:, JOINTS:].mT).mT
        per_token, mix, read_out = self.camera
        return Prediction(vertices, read_out(mix(per_token(positions)[..., 0])))


_OWN = r"encoders\.(\d)\.layers\.layers\.(\d+)\."
_THEIRS = r"trans_encoder.\1.bert.encoder.layer.\2."
_HRNET = (
    (r"stem\.one\.0", "conv1"),
    (r"stem\.one\.1", "bn1"),
    (r"stem\.two\.0", "conv2"),
    (r"stem\.two\.1", "bn2"),
    (r"first\.(\d)\.body", r"layer1.\1"),
    (r"first\.(\d)\.shortcut", r"layer1.\1.downsample"),
    (r"start", "transition1.0"),
    (r"descend\.0", "transition1.1.0"),
    (r"descend\.1", "transition2.2.0"),
    (r"descend\.2", "transition3.3.0"),
    *((rf"stages\.{i}\.(\d)\.branches\.(\d)\.(\d)\.body", rf"stage{i + 2}.\1.branches.\2.\3") for i in range(3)),
    *((rf"stages\.{i}\.(\d)\.sums\.(\d)\.paths", rf"stage{i + 2}.\1.fuse_layers.\2") for i in range(3)),
    (r"widen\.(\d)\.body", r"incre_modules.\1.0"),
    (r"widen\.(\d)\.shortcut", r"incre_modules.\1.0.downsample"),
    (r"join", "downsamp_modules"),
    (r"features", "final_layer"),
)
NAMES: checkpoint.Names = (
    *((r"backbone\." + own, "backbone." + theirs) for own, theirs in _HRNET),
    (_OWN + r"self_attn\.in_proj_", tuple(f"{_THEIRS}attention.self.{part}." for part in ("query", "key", "value"))),
    (_OWN + r"self_attn\.out_proj", _THEIRS + "attention.output.dense"),
    (_OWN + "norm1", _THEIRS + "attention.output.LayerNorm"),
    (_OWN + "linear1", _THEIRS + "intermediate.dense"),
    (_OWN + "linear2", _THEIRS + "output.dense"),
    (_OWN + "norm2", _THEIRS + "output.LayerNorm"),
    (r"encoders\.(\d)\.embed", r"trans_encoder.\1.bert.img_embedding"),
    (r"encoders\.(\d)\.positions", r"trans_encoder.\1.bert.position_embeddings.weight"),
    (r"encoders\.(\d)\.out", r"trans_encoder.\1.cls_head"),
    (r"encoders\.(\d)\.skip", r"trans_encoder.\1.residual"),
    (r"upsample", "upsampling"),
    (r"camera\.0", "cam_param_fc"),
    (r"camera\.1", "cam_param_fc2"),
    (r"camera\.2", "cam_param_fc3"),
)


def load(path: Path, backbone: Path | None = None, sizes: Sizes | None = None) -> Metro:
    """The network with a published checkpoint's weights, float32 on the CPU.

    `backbone` is a file of HRNet's weights if the checkpoint has none.

    Raises HoldprepError where a file is missing, truncated or of another model.
    """
    published = checkpoint.read(path, ADVICE)
    if backbone is not None:
        published |= {f"backbone.{k}": v for k, v in checkpoint.read(backbone, "hand.backbone is HRNet-W64's weights").items()}
    with torch.device("meta"):  # weights are replaced below
        network = Metro(sizes or Sizes())
    checkpoint.fill(network, published, NAMES, path, "METRO")
    return network.eval()
