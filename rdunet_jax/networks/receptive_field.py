"""How many voxels of the input one voxel of the output can depend on, from a network's settings.

An interval of positions is followed from the output back to the input, along one axis. A convolution widens it by its
radius, an upsampling halves its positions, a pooling doubles them. The skip connections of a U-Net see less than the
way through the bottleneck, so they do not count.
"""

from collections.abc import Callable

from rdunet_jax.config import ModelConfig

Interval = tuple[int, int]
_KNOWN = {"unet", "lungnet", "pseudo-dense", "convlstm", "bidirectional", "convgru", "block", "none"}


def receptive_field(config: ModelConfig) -> tuple[int, int, int] | None:
    """Slices, rows and columns, at most; None where it does not follow from the settings, as in group normalisation,
    whose means are over the whole patch, and with parts of a plugin.

    The slices are those of the config's patch. Rows and columns may exceed those of a patch.
    """
    own = not {config.architecture, config.block, config.bottleneck} <= _KNOWN
    if own or config.norm == "group":
        return None
    extent = _lungnet if config.architecture == "lungnet" else _unet
    slices = min(extent(config, along_depth=True), config.patch_depth)
    in_plane = extent(config, along_depth=False)
    return slices, in_plane, in_plane


def _lungnet(c: ModelConfig, along_depth: bool) -> int:
    own = (c.kernel_depth // 2) * len(c.dilations) if along_depth else sum(c.dilations)
    return 1 + 2 * (own + len(c.fusion_widths))


def _unet(c: ModelConfig, along_depth: bool) -> int:
    """The largest extent over the positions of the output, which differ in how they meet the poolings."""
    levels = len(c.widths)
    radius = 2 * (c.kernel_depth // 2) if along_depth else 2  # of a block
    halves = not along_depth or c.pooling == "spatio-temporal"
    block = _widen(radius)
    up, down = (_up, _down) if halves else (_same, _same)
    decoder = [block, up] if c.decoder == "upsample-first" else [up, block]
    way = [*decoder * levels, _bottleneck(c, along_depth, radius), *[down, block] * levels]

    def extent(position: int) -> int:
        low, high = position, position
        for step in way:
            low, high = step((low, high))
        return high - low + 1

    return max(extent(position) for position in range(2**levels))


def _bottleneck(c: ModelConfig, along_depth: bool, radius_of_block: int) -> Callable[[Interval], Interval]:
    if c.bottleneck in ("none", "block"):
        return _widen(radius_of_block if c.bottleneck == "block" else 0)
    if along_depth:
        return _widen(c.patch_depth)
    steps = c.patch_depth - 1
    # A path of the LSTM widens by one where it enters a layer and at each step along depth, in one direction over all
    # layers or back and forth. The reset gate of the GRU is a second convolution, except at the first step.
    if c.bottleneck == "convgru":
        return _widen(2 * c.recurrent_layers - 1 + 2 * steps if steps else c.recurrent_layers)
    turns = c.recurrent_layers if c.bottleneck == "bidirectional" else 1
    return _widen(c.recurrent_layers + turns * steps)


def _widen(radius: int) -> Callable[[Interval], Interval]:
    return lambda interval: (interval[0] - radius, interval[1] + radius)


def _up(interval: Interval) -> Interval:
    return interval[0] // 2, interval[1] // 2


def _down(interval: Interval) -> Interval:
    return 2 * interval[0], 2 * interval[1] + 1


def _same(interval: Interval) -> Interval:
    return interval
