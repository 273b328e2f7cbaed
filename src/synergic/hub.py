"""Weights on the Hugging Face Hub: one repository for one weights file, with a model card written from what it says.

    weights.safetensors   the weights file, byte for byte
    config.json           its network's configuration, for those who look without loading
    README.md             the model card

Only `weights.safetensors` is read back, and as strictly as any weights file: see `card.find_weights`.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, hf_hub_download

from synergic.card import HUB, HUB_FILE, find_weights
from synergic.errors import SynergicError, first_line
from synergic.network import count_parameters
from synergic.weights import load_weights


def push_to_hub(name_or_path: str | Path, repository: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload published weights or a weights file as "owner/name". Returns the address of the commit.

    token: of an account that may write there; the one of `hf auth login` unless given.
    """
    weights = HubWeights(find_weights(name_or_path))
    try:
        return weights.push_to_hub(
            repository,
            private=private,
            token=token,
            commit_message="Weights",
            model_card_kwargs={"repository": repository},
        )
    except Exception as error:  # no network, no rights, no such name, ...: each from another library below this one
        raise SynergicError(f"{repository}: cannot be uploaded to: {first_line(error)}") from error


class HubWeights(ModelHubMixin):
    """A weights file as a repository of the Hub."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.network, self.card = load_weights(path)  # nobody is to download what does not open

    def _save_pretrained(self, save_directory: Path) -> None:
        shutil.copyfile(self.path, save_directory / HUB_FILE)
        (save_directory / "config.json").write_text(json.dumps(asdict(self.network.config), indent=1))

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Self:
        folder = Path(model_id)
        return cls(folder / HUB_FILE if folder.is_dir() else Path(hf_hub_download(model_id, HUB_FILE, **options)))

    def generate_model_card(self, *_: Any, repository: str = "OWNER/NAME", **__: Any) -> ModelCard:
        """What the weights say of themselves, and how to use them once they are in the repository."""
        card = self.card
        data = ModelCardData(
            library_name="synergic",
            pipeline_tag="image-to-image",
            tags=["image-restoration", "sat-net", card.task],
            license="other",  # in words below: the Hub's list has no name for several at once
        )
        scores = [f"| {protocol} | {score:.2f} dB |" for protocol, score in card.scores.items()]
        lines = [
            "---",
            data.to_yaml(),
            "---",
            "",
            f"# {card.name}",
            "",
            "SAT-Net, the Synergic Attention Network for image restoration "
            "(C. Mou, J. Zhang, ICASSP 2021, doi 10.1109/ICASSP39728.2021.9413484).",
            "",
            "```python",
            "from synergic import Restorer",
            "",
            f'restorer = Restorer.from_pretrained("{HUB}{repository}")  # this repository',
            "clean = restorer(image)",
            "```",
            "",
            f"- removes: {card.task}",
            f"- parameters: {count_parameters(self.network):,}",
            f"- trained on: {card.data} ({card.licence})",
            f"- training: {card.steps:,} steps, {card.seconds:,.0f} s on {card.hardware}",
            *([f"- limits: {card.limits}"] if card.limits else []),
            *(["", "| protocol | PSNR |", "|---|---|", *scores] if scores else []),
            *(["", f"Measured: {card.protocol}"] if card.protocol else []),
            "",
        ]
        return ModelCard("\n".join(lines))
