"""Audio encoders of transformers (github.com/huggingface/transformers), by name, folder or configuration."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.errors import UserError, did_you_mean, refuse_address
from lightning_audio.frontend.mask import mask_frames
from lightning_audio.networks.encoders.base import Encoder, load_weights
from lightning_audio.networks.encoders.bodies import AST, BODIES, Moonshine, Whisper

WHOLE = (AST, Moonshine, Whisper)  # bodies all of which is used in every step
NOT_KEPT = ("id2label", "label2id", "transformers_version", "architectures", "dtype", "torch_dtype")
ENCODERS = {
    "whisper": "WhisperEncoder",
    "moonshine": "MoonshineEncoder",
}  # of models that have a decoder, too


class HuggingFace(Encoder):
    """The states of an audio encoder of transformers.

    A clip that is shorter than what a state is of is filled up with zeros.

    Args:
        weights: a folder with config.json, a name on the hub, or with `config` a safetensors file; null:
            from scratch.
        models: the folder in which a name is looked for before the hub is asked.
        config: what config.json says, with `model_type`; read from beside the weights where it is null.
        preprocessor: what preprocessor_config.json says, likewise.
        layer: `last`, the number of a layer (0: what goes into the first one; -1: the last), `all` as
            channels, or `weighted`: a learned weighted sum of all, as in SUPERB (Yang et al. 2021,
            arXiv:2105.01051).
        masks: SpecAugment on the log-mel of Whisper, while it learns.

    Raises:
        UserError: transformers is not installed, there are no such weights, or they are of no known encoder.
    """

    def __init__(
        self,
        weights: str | None = None,
        models: str = "models",
        config: dict[str, Any] | None = None,
        preprocessor: dict[str, Any] | None = None,
        layer: str | int = "last",
        masks: nn.Module | None = None,
    ) -> None:
        super().__init__()
        model, config, preprocessor = load_model(weights, Path(models).expanduser(), config, preprocessor)
        self.architecture = {"config": config, "preprocessor": preprocessor}
        self.body = BODIES[config["model_type"]](model, preprocessor)
        if masks is not None and not hasattr(self.body, "masks"):
            raise UserError(
                f"encoder.masks cover the log-mel of Whisper, and {config['model_type']} has none: set "
                "encoder.masks=null."
            )
        if masks is not None:
            self.body.masks = masks
        self.sample_rate, self.least = preprocessor.get("sampling_rate", 16000), self.body.least
        count, width = len(self.body.layers()) + 1, model.config.hidden_size
        if layer not in ("last", "all", "weighted") and not (
            isinstance(layer, int) and -count <= layer < count
        ):
            raise UserError(
                f"encoder.layer={layer} is unknown: set it to last, all, weighted, or a number from 0 to "
                f"{count - 1}."
            )
        self.layer, self.shape = layer, (count if layer == "all" else 1, width)
        self.mix = nn.Parameter(torch.zeros(count)) if layer == "weighted" else None
        # Layers above the one that is asked for; layers and masks that the library draws.
        self.skips = layer in (*range(-count, -1), *range(count - 1)) or not isinstance(self.body, WHOLE)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return self.body.output_lengths(lengths.clamp(min=self.least))

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, T)` -> states `(B, width, T')`, or of all layers `(B, layers, width, T')`, and lengths."""
        waveforms, lengths = mask_frames(waveforms, lengths), lengths.clamp(min=self.least)
        missing = self.least - waveforms.shape[-1]
        missing = missing.clamp(min=0) if isinstance(missing, Tensor) else max(missing, 0)
        waveforms = functional.pad(waveforms, (0, missing))
        states, counts = self.body(waveforms, lengths), self.body.output_lengths(lengths)
        if self.layer == "all":
            chosen = torch.stack(states, 1)
        elif self.mix is not None:
            chosen = (torch.stack(states, -1) * self.mix.softmax(0)).sum(-1)
        else:
            chosen = states[-1 if self.layer == "last" else int(self.layer)]
        return mask_frames(chosen.mT, counts), counts

    def named_stages(self) -> dict[str, list[nn.Module]]:
        """What comes before the layers of the transformer, then each; what follows goes with the last."""
        layers = self.body.layers()
        before, behind = around(self.body.model, layers)
        stages = {f"layer{number}": [layer] for number, layer in enumerate(layers, start=1)}
        stages[f"layer{len(layers)}"] += behind
        return {"stem": before, **stages}


def around(module: nn.Module, layers: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """The parts of a module that stand before and behind its layers."""
    before: list[nn.Module] = []
    behind: list[nn.Module] = []
    found = False
    for child in module.children():
        if child is layers:
            found = True
        elif any(part is layers for part in child.modules()):
            inner = around(child, layers)
            before, behind, found = before + inner[0], behind + inner[1], True
        else:
            (behind if found else before).append(child)
    return before, behind


def load_model(
    weights: str | None, models: Path, config: dict[str, Any] | None, preprocessor: dict[str, Any] | None
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The encoder, its configuration and that of what it is fed.

    Raises:
        UserError: as `HuggingFace`.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "Encoders of transformers need a package that is not installed: run pip install "
            "'lightning-audio[pretrained]'."
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if config is not None:
        described = dict(config)
        kind = known_kind(described.pop("model_type", None), "encoder.config")
        try:
            model = build_model(transformers, transformers.AutoConfig.for_model(kind, **described))
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(
                f"encoder.config is no {kind}: {' '.join(str(error).split())}; mend it."
            ) from error
        if weights is not None:
            load_weights(model, weights, f"{kind} as encoder.config describes it")
        return model, config, preprocessor or {}
    if weights is None:
        raise UserError(
            "encoder.weights names no encoder: give a folder with config.json and model.safetensors, or a "
            "name on the hub."
        )
    model, place = pretrained_model(transformers, weights, models)
    kept = {key: value for key, value in model.config.to_diff_dict().items() if key not in NOT_KEPT}
    try:
        told, _ = transformers.FeatureExtractionMixin.get_feature_extractor_dict(place)
    except OSError:  # a folder need not have one
        told = {}
    wanted = ("do_normalize", "mean", "std", "sampling_rate")
    preprocessor = preprocessor or {key: told[key] for key in wanted if key in told}
    return model, {**kept, "model_type": model.config.model_type}, preprocessor


def pretrained_model(transformers: Any, weights: str, models: Path) -> tuple[Any, str]:
    """The encoder in a folder, in one below `models`, or of a name on the hub; and which of these it is."""
    refuse_address(weights)
    folder = next((p for p in (Path(weights).expanduser(), models / weights) if p.is_dir()), None)
    place, options = str(folder or weights), {"local_files_only": folder is not None}
    try:
        config = transformers.AutoConfig.from_pretrained(place, **options)
        kind = known_kind(config.model_type, place)
        model, found = transformers.AutoModel.from_pretrained(
            place, config=config, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        where = f"{folder} holds no encoder" if folder else f"There is no encoder {weights}"
        raise UserError(
            f"{where} that transformers can load ({' '.join(str(error).split())[:160]}): give a folder with "
            f"config.json and model.safetensors, put one at {models / weights}, or name one on the hub."
        ) from error
    model, prefix = (model.get_encoder(), "encoder.") if kind in ENCODERS else (model, "")
    missing = [
        name for name in found["missing_keys"] if name.startswith(prefix) and "masked_spec" not in name
    ]
    if missing:
        raise UserError(
            f"{place} lacks {len(missing)} weights of the encoder such as {missing[0]}: give one with all."
        )
    return model, place


def build_model(transformers: Any, config: Any) -> Any:
    """An encoder as it begins, of those that have a decoder without it."""
    if name := ENCODERS.get(config.model_type):
        module = importlib.import_module(
            f"transformers.models.{config.model_type}.modeling_{config.model_type}"
        )
        return getattr(module, name)(config)
    return transformers.AutoModel.from_config(config)


def known_kind(kind: Any, place: str) -> str:
    """The kind of model, where it is one that can be fed; UserError otherwise."""
    if kind not in BODIES:
        raise UserError(
            f"{place} is of kind {kind!r}, which is no known audio encoder"
            f"{did_you_mean(str(kind), BODIES)}: take one of {', '.join(BODIES)}."
        )
    return str(kind)
