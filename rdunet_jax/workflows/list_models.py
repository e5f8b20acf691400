"""`rdunet models`."""

from rich.console import Console

from rdunet_jax.errors import RunError
from rdunet_jax.networks.models import MODELS
from rdunet_jax.networks.summary import summarize
from rdunet_jax.workflows.display import print_table


def show_models(name: str | None, image_size: int, console: Console) -> None:
    """Shows every network in a line, or one with its stages."""
    if name is not None and name not in MODELS:
        raise RunError(f"no network is called {name!r}; choose one of {', '.join(MODELS)}")
    chosen = MODELS if name is None else {name: MODELS[name]}
    summaries = [summarize(config, image_size, image_size) for config in chosen.values()]
    print_table(
        console,
        f"Networks on one patch of {image_size} x {image_size} pixels",
        ("name", "parameters", "GFLOP forward", "activations of training, MB"),
        [(s.name, f"{s.parameters:,}", f"{s.gflops:.1f}", f"{s.activation_mb:,.0f}") for s in summaries],
    )
    if name is not None:
        rows = [(stage, " x ".join(map(str, shape))) for stage, shape in summaries[0].stages.items()]
        print_table(console, "Stages", ("stage", "depth x height x width x channels"), rows)
