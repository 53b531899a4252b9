"""LoRA: low-rank additions to the linear layers of a network, which learn in their place."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lightning_audio.errors import UserError
from lightning_audio.networks.base import Network

# They read the weights of their linear layers past `forward`, where nothing would be added.
CLOSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def add_lora(
    network: Network,
    rank: int = 8,
    alpha: int | None = None,
    dropout: float = 0.0,
    modules: Sequence[str] | None = None,
) -> float:
    """Adds `scale * B A` to the weights of linear layers; of all but the head nothing else learns any more.

    Hu et al. 2021, arXiv:2106.09685, by peft.

    Args:
        rank: of A and B.
        alpha: the scale times the rank, by default twice the rank.
        dropout: before A.
        modules: the ends of the names of the layers, such as `qkv`; by default all outside of the head.

    Returns:
        The scale.

    Raises:
        UserError: peft is not installed, or no such layer is there.
    """
    alpha = 2 * rank if alpha is None else alpha
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(
            "finetune.lora needs peft, which is not installed: run pip install 'lightning-audio[pretrained]'."
        ) from error
    head = list(network.named_stages().values())[-1]
    outside = {id(part) for module in head for part in module.modules()}
    outside |= {id(p) for m in network.modules() if isinstance(m, CLOSED) for p in m.modules()}
    linear = [n for n, m in network.named_modules() if isinstance(m, nn.Linear) and id(m) not in outside]
    chosen = [n for n in linear if modules is None or f".{n}".endswith(tuple(f".{end}" for end in modules))]
    if not chosen:
        there = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear)) or "none"
        raise UserError(
            f"finetune.lora finds no linear layer to add to in {type(network).__name__} (outside of the head "
            f"there are {there}): name some of them in finetune.lora.modules, or set finetune.lora=null."
        )
    trained = [parameter for module in head for parameter in module.parameters() if parameter.requires_grad]
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=chosen), network
    )
    for parameter in trained:
        parameter.requires_grad_(True)
    return alpha / rank
