"""SAT-Net for programs that load networks through spandrel, such as ComfyUI: `install()` makes it one of those known.

spandrel reads the tensors of a file alone, and no shape tells a stride or a window; hence `synergic export --for
spandrel`, which adds the configuration as a tensor.
"""

from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor, StateDict
from torch import Tensor

from synergic.network import SATNet
from synergic.weights import network_from_state_dict


class SATNetArch(Architecture[SATNet]):  # type: ignore[misc]  # Any where spandrel is not installed
    """How spandrel knows a SAT-Net, and loads it: scale 1, pictures of 3 channels, any size from 1 x 1."""

    def __init__(self) -> None:
        super().__init__(id="SATNet", name="SAT-Net", detect=is_satnet)

    def load(self, state_dict: StateDict) -> ImageModelDescriptor[SATNet]:
        """The network as spandrel's descriptor. Raises SynergicError for a file without the configuration."""
        network, tensors = network_from_state_dict(state_dict)
        return ImageModelDescriptor(
            network,
            tensors,
            architecture=self,
            purpose="Restoration",
            tags=[f"{network.config.channels}nf", f"{network.config.blocks}nb"],
            supports_half=False,
            supports_bfloat16=True,
            scale=1,
            input_channels=3,
            output_channels=3,
            call_fn=restore,
        )


def install() -> None:
    """Register SAT-Net with spandrel; a second call does nothing."""
    MAIN_REGISTRY.add(ArchSupport.from_architecture(SATNetArch()), ignore_duplicates=True)


def is_satnet(state_dict: StateDict) -> bool:
    """Do these keys belong to a SAT-Net?"""
    return {"head.weight", "tail.weight"} <= state_dict.keys() and any(
        key.startswith("blocks.0.extraction.") for key in state_dict
    )


def restore(network: SATNet, picture: Tensor) -> Tensor:
    """N 3 H W in [0, 1] -> N 3 H W, the strength unknown; a gray network takes every channel for itself."""
    return network(picture.reshape(-1, network.config.colors, *picture.shape[2:])).reshape(picture.shape)
