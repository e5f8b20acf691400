"""`rdunet models`."""

from rich.console import Console

from rdunet_jax.config import ImageSize
from rdunet_jax.networks.named import MODELS, model_config
from rdunet_jax.networks.summary import summarize
from rdunet_jax.ranges import check
from rdunet_jax.workflows.display import print_table


def show_models(name: str | None, image_size: int, console: Console) -> None:
    """Shows a line per network, or one network with its stages.

    Raises:
        RunError: there is no network of that name, or a network cannot take images of that size.
    """
    check("image_size", image_size, ImageSize)
    chosen = list(MODELS.values()) if name is None else [model_config(name)]
    for config in chosen:
        config.check_image_size(image_size)
    summaries = [summarize(config, image_size, image_size) for config in chosen]
    print_table(
        console,
        f"Networks on one patch of {image_size} x {image_size} pixels",
        ("name", "parameters", "GFLOP forward", "activations of training, MB"),
        [(s.name, f"{s.parameters:,}", f"{s.gflops:.1f}", f"{s.activation_mb:,.0f}") for s in summaries],
    )
    if name is not None:
        rows = [(stage, " x ".join(map(str, shape))) for stage, shape in summaries[0].stages.items()]
        print_table(console, "Stages", ("stage", "depth x height x width x channels"), rows)
