"""Any image backbone of timm (Wightman 2019, github.com/huggingface/pytorch-image-models) on spectrograms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.errors import UserError, did_you_mean, refuse_address
from lightning_audio.frontend.mask import in_export
from lightning_audio.networks.base import Network, as_maps, strided

LEAST = (1, 2, 4, 8, 16, 32, 64, 128)  # features and frames that are tried on a backbone


class Timm(Network):
    """A backbone by its name in timm, its classifier replaced.

    A backbone does not know of padding: in eval mode the clips of one length run together, so that padding
    never reaches it; in training mode it sees padded batches. Spectrograms that are too small for a backbone,
    or no multiple of its stride, are filled up with zeros on their upper and right sides. Transformers
    interpolate their positions to the size at hand where timm lets them; a backbone of one fixed size wants
    `img_size`.

    Args:
        in_shape: `(channels, features per frame)`; pretrained first layers are summed to fewer channels.
        num_outputs: logits for each clip.
        backbone: a name of `timm.list_models()`.
        weights: `pretrained` (`MODELS/BACKBONE.safetensors` where that file is, otherwise timm's hub), the
            path of a weight file, or null to start from scratch.
        models: the folder MODELS.
        dropout: before the classifier.
        sizes: `[share of the epochs, scale]` pairs for progressive input size: from that share on, training
            spectrograms are resized by that scale.
        img_size: `[features, frames]` that all spectrograms are resized to, however long they are.

    Raises:
        UserError: what `create_backbone` raises, the backbone takes no spectrograms of `in_shape`, or `sizes`
            and `img_size` are both given.
    """

    def __init__(
        self,
        in_shape: tuple[int, int],
        num_outputs: int,
        backbone: str = "resnet18",
        weights: str | None = None,
        models: str = "models",
        dropout: float = 0.0,
        sizes: Sequence[Sequence[float]] = (),
        img_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if sizes and img_size:
            raise UserError("network.sizes and network.img_size both set the input size: leave out one.")
        self.sizes, self.scale = sizes, 1.0
        options: dict[str, Any] = {"in_chans": in_shape[0], "num_classes": num_outputs, "drop_rate": dropout}
        self.img_size = None if img_size is None else (int(img_size[0]), int(img_size[1]))
        self.backbone = create_backbone(backbone, weights, Path(models).expanduser(), options, self.img_size)
        self.least, self.multiple = sizes_taken(self.backbone, in_shape, self.img_size, backbone)
        for module in classifier_modules(self.backbone):
            if isinstance(module, nn.Linear):
                # Some backbones draw it for 1,000 classes: with 10, its first gradients would wreck the rest.
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    ragged = False

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, num_outputs)`, one frame a clip."""
        x = as_maps(x)
        if self.training:
            if self.scale != 1.0:
                x = functional.interpolate(x, scale_factor=self.scale, mode="bilinear")
            return self.backbone(self._resized(x)), torch.ones_like(lengths)
        if in_export():  # a graph is given clips of one length, without padding
            return self.backbone(self._resized(x)), torch.ones_like(lengths)
        sizes = lengths.tolist()
        if len(set(sizes)) == 1:
            return self.backbone(self._resized(x[..., : sizes[0]])), torch.ones_like(lengths)
        logits = x.new_empty(len(x), self.backbone.num_classes)
        for size in sorted(set(sizes)):
            same = lengths == size
            logits[same] = self.backbone(self._resized(x[same][..., :size])).to(logits.dtype)
        return logits, torch.ones_like(lengths)

    def _resized(self, x: Tensor) -> Tensor:
        """`(B, C, F, T)` of a size that the backbone takes: as it is, filled up, or interpolated."""
        if self.img_size is not None:
            return functional.interpolate(x, self.img_size, mode="bilinear")
        sizes = [
            size.clamp(min=self.least) if isinstance(size, Tensor) else max(size, self.least)
            for size in x.shape[-2:]
        ]
        missing = [
            strided(size, self.multiple) * self.multiple - old
            for size, old in zip(sizes, x.shape[-2:], strict=True)
        ]
        if in_export() or any(missing):
            return functional.pad(x, (0, missing[1], 0, missing[0]))
        return x

    def start_epoch(self, epoch: int, max_epochs: int) -> None:
        """Sets the input size of the epoch."""
        self.scale = 1.0
        for share, scale in self.sizes:
            if epoch >= share * max_epochs:
                self.scale = scale

    def named_stages(self) -> dict[str, list[nn.Module]]:
        """The groups of timm's own rates by depth, named as it matches them: `layer4.1`, `blocks.2.0`."""
        matcher = self.backbone.group_matcher(coarse=False)
        specs = matcher.values() if isinstance(matcher, dict) else ()
        patterns = [
            one if isinstance(one, str) else one[0]
            for spec in specs
            for one in ([spec] if isinstance(spec, str) else spec or ())
        ]
        stages: dict[str, list[nn.Module]] = {}
        for _, group in sorted(group_parameters(self.backbone, matcher).items()):
            found = next(filter(None, (re.match(pattern, group[0]) for pattern in patterns)), None)
            name = found[0] if found else group[0].split(".")[0]
            # The backbone's own parameters, such as positions, are in no part of it: they are the stem's.
            owners = {n.rpartition(".")[0] for n in group} - {""}
            outside = sorted(owner for owner in owners if not f"{owner}.".startswith(f"{name}."))
            whole = [name] if len(outside) < len(owners) else []
            stages[name] = [self.backbone.get_submodule(part) for part in (*whole, *outside)]
        return stages


def classifier_modules(backbone: Any) -> list[nn.Module]:
    """All of the last layer of a backbone, or of the two for the class and the distillation token."""
    found = backbone.get_classifier()
    return [part for layer in (found if isinstance(found, tuple) else [found]) for part in layer.modules()]


def sizes_taken(
    backbone: nn.Module, in_shape: tuple[int, int], img_size: tuple[int, int] | None, name: str
) -> tuple[int, int]:
    """The fewest features and frames that a backbone takes, and what their numbers are a multiple of.

    Raises:
        UserError: it takes none of `LEAST`, or not `img_size`.
    """
    channels, features = in_shape

    @torch.no_grad()
    def takes(*sizes: tuple[int, int]) -> str:
        """Nothing where it does, otherwise the reason."""
        try:
            for size in sizes:
                backbone(torch.zeros(1, channels, *size))
            return ""
        except (AssertionError, RuntimeError, ValueError) as error:
            return " ".join(str(error).split()).rstrip(".") or type(error).__name__

    training = backbone.training
    backbone.eval()
    try:
        if img_size is not None:
            if reason := takes(img_size):
                raise UserError(
                    f"timm's {name} takes no network.img_size={list(img_size)} ({reason}): change it."
                )
            return 1, 1
        for least in LEAST:
            rows = max(features, least)
            if not takes((rows, least), (rows, least + 1), (rows, 3 * least + 2)):
                return least, 1
        for multiple in LEAST[1:]:
            rows = strided(features, multiple) * multiple
            if not (reason := takes((rows, multiple), (rows, 3 * multiple))):
                return multiple, multiple
    finally:
        backbone.train(training)
    raise UserError(
        f"timm's {name} takes no spectrograms of {features} features, however long ({reason}): set "
        "network.img_size=[FEATURES,FRAMES] to a size that it takes, such as [224,224], or another backbone."
    )


def create_backbone(
    name: str,
    weights: str | None,
    models: Path,
    options: dict[str, Any],
    img_size: tuple[int, int] | None = None,
) -> Any:
    """The timm model with its weights.

    Raises:
        UserError: timm has no such model, the weight file is missing or of another model, or the hub can't be
            reached.
    """
    if (
        "/" in name
        or ":" in name
        or not timm.is_model(name)
        or ("." in name and not timm.is_model_pretrained(name))
    ):
        nearest = did_you_mean(name, timm.list_models() + timm.list_pretrained())
        raise UserError(
            f"timm has no backbone {name!r}{nearest}: set network.backbone to one of timm.list_models()."
        )
    refuse_address(weights)
    if weights is None:
        return create_model(name, img_size, pretrained=False, **options)
    file = models / f"{name}.safetensors" if weights == "pretrained" else Path(weights).expanduser()
    if weights != "pretrained" and not file.is_file():
        raise UserError(
            f"There is no weight file {file}: set network.weights to one, or to null for scratch."
        )
    overlay = {"file": str(file)} if file.is_file() else None
    try:
        backbone = create_model(name, img_size, pretrained=True, pretrained_cfg_overlay=overlay, **options)
        if overlay:
            refuse_missing(backbone, file)
        return backbone
    except Exception as error:
        if overlay:
            raise UserError(
                f"{file} does not hold weights of {name}: give a file of timm's {name}."
            ) from error
        raise UserError(
            f"The weights of {name} could not be fetched from timm's hub ({type(error).__name__}): put them "
            f"at {file}, name a file by network.weights=FILE, or start from scratch by network.weights=null."
        ) from error


def create_model(name: str, img_size: tuple[int, int] | None, **options: Any) -> Any:
    """`timm.create_model`, with what lets its kind of model take `img_size`, or spectrograms of any size."""
    kinds: list[dict[str, Any]] = [
        {"dynamic_img_size": True, "dynamic_img_pad": True},
        {"strict_img_size": False},
    ]
    for own in [{"img_size": img_size}] if img_size else kinds:
        try:
            return timm.create_model(name, **options, **own)
        except TypeError as error:  # it has no such option
            if "unexpected keyword argument" not in str(error):
                raise
    return timm.create_model(name, **options)


def refuse_missing(backbone: Any, file: Path) -> None:
    """Raises ValueError where a weight file lacks what a backbone has, its classifier aside.

    timm itself passes over what does not match as soon as the number of classes is another one.
    """
    classifier = {id(p) for module in classifier_modules(backbone) for p in module.parameters()}
    present = timm.models.load_state_dict(str(file))
    missing = [n for n, p in backbone.named_parameters() if n not in present and id(p) not in classifier]
    if missing:
        raise ValueError(f"{len(missing)} weights such as {missing[0]} are not in {file}")
