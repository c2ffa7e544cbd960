"""Small modules that networks and file formats share."""

from __future__ import annotations

from torch import Tensor, nn


class FlattenChannelsLast(nn.Module):
    """(batch, channel, height, width) to (batch, height * width * channel).

    The order a channels-last file has its dense weights in; free of copying when the
    tensor is stored channels-last.
    """

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.permute(0, 2, 3, 1).flatten(1)


class ChannelMask(nn.Module):
    """Sets channels to zero; what cannot be baked into weights is masked by this.

    Args:
        pruned: Indices of the channels that become zero, int64.
    """

    pruned: Tensor

    def __init__(self, pruned: Tensor) -> None:
        super().__init__()
        self.register_buffer("pruned", pruned)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.index_fill(1, self.pruned, 0.0)


class ChannelSelect(nn.Module):
    """Keeps the channels at `kept`, in that order.

    Args:
        kept: Indices, int64 (kept,).
    """

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.index_select(1, self.kept)


class Rescale(nn.Module):
    """x * scale + offset, as some files do to their input.

    Args:
        scale: Factor.
        offset: Added after.
    """

    def __init__(self, scale: float, offset: float) -> None:
        super().__init__()
        self.scale = scale
        self.offset = offset

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.scale}, {self.offset}"

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x * self.scale + self.offset
