"""What a training leaves: weights that medzip finds, their card, and for LoRA the adapter alone."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from fine_tune.datasets.catalogue import Row

PRIVACY = """Weights can hold what they were trained on: a model of patients' scans may give parts of them to who has the file.
Pass it on only where the scans themselves could go, unless somebody has looked at that risk (docs/fine_tune.md, "Privacy")."""


@dataclass(frozen=True)
class Card:
    """What is said of weights: their configuration, the step, bits a sample on `held_out`, and both lists of rows."""

    config: dict[str, Any]
    step: int
    bits: float
    training: Sequence[Row]
    held_out: Sequence[Row]

    def metadata(self) -> dict[str, str]:
        """For the weights file."""
        config = self.config
        return {
            "network": json.dumps(config["network"], sort_keys=True),
            "kind": config["kind"],
            "licence_class": config["licence_class"],
            "step": str(self.step),
            "held_out": f"{self.bits:.4f}",
        }

    def text(self, name: str) -> str:
        """Markdown."""
        lines = [
            f"# {name}",
            "",
            f"For preset `{self.config['kind']}`, licence class {self.config['licence_class']}. {self.step} steps.",
        ]
        held_out = len(self.held_out)
        lines += [f"Held out, {held_out} volumes of other patients: {self.bits:.4f} bits a sample (cross-entropy).", ""]
        lines += [PRIVACY, "", "Trained on:", ""]
        lines += [f"- {row['path']}" + (f" ({terms})" if (terms := row.get("terms and source")) else "") for row in self.training]
        return "\n".join(lines) + "\n"


def keep(network: nn.Module, run: Path, card: Card) -> None:
    """Writes weights.safetensors (LoRA merged, half precision), weights.md and, for LoRA, adapter/ to the folder of a run."""
    if int(os.environ.get("RANK", 0)):
        return
    temporary = run / "weights.tmp"
    save_file(merged(network), temporary, metadata=card.metadata())
    temporary.replace(run / "weights.safetensors")
    (run / "weights.md").write_text(card.text(run.name))
    if hasattr(network.backbone, "save_pretrained") and hasattr(network.backbone, "merge_and_unload"):
        adapter = run / "adapter"
        network.backbone.save_pretrained(adapter)  # type: ignore[operator]  # of peft
        around = {name: w.half().contiguous() for name, w in network.state_dict().items() if not name.startswith("backbone.")}
        save_file(around, adapter / "medzip_around.safetensors")
        told = card.metadata() | {"start": str(card.config.get("start")), "network": card.config["network"]}
        (adapter / "medzip_model.json").write_text(json.dumps(told, indent=1))


def merged(network: nn.Module) -> dict[str, Tensor]:
    """The weights with LoRA updates merged in, under the names of a network without LoRA, in half precision."""
    if hasattr(network.backbone, "merge_and_unload"):
        network = copy.deepcopy(network)
        network.backbone = network.backbone.merge_and_unload()  # type: ignore[operator]  # of peft
    return {name: weight.half().cpu().contiguous() for name, weight in network.state_dict().items()}
