"""The authors' network in PyTorch, for `bench`: channels last in memory, weights in the order of the Keras network."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.case import Case, Program


class Block(nn.Module):
    """The pseudo-dense block: (its input concatenated with its last layer, its last layer)."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv3d(channels, features, 3, padding=1)
        self.norm_1 = _norm(features)
        self.conv_2 = nn.Conv3d(channels + features, features, 3, padding=1)
        self.norm_2 = _norm(features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = functional.relu(self.norm_1(self.conv_1(x)))
        last = functional.relu(self.norm_2(self.conv_2(torch.cat([x, first], 1))))
        return torch.cat([x, last], 1), last


class ConvLSTM(nn.Module):
    """Keras' ConvLSTM2D over the depth axis with Keras 2's hard sigmoid, then batch normalisation."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.features = features
        self.inputs = nn.Conv2d(channels, 4 * features, 3, padding=1)
        self.recurrent = nn.Conv2d(features, 4 * features, 3, padding=1, bias=False)
        self.norm = _norm(features)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, depth, height, width = x.shape
        gates = _unfold(self.inputs(_fold(x)), batch)
        cell = hidden = x.new_zeros(batch, self.features, height, width)
        outputs = []
        for index in range(depth):
            now = gates[:, :, index]
            if index:  # before the first slice the state is zero
                now = now + self.recurrent(hidden)
            i, f, c, o = now.chunk(4, 1)
            cell = _hard_sigmoid(f) * cell + _hard_sigmoid(i) * torch.tanh(c)
            hidden = _hard_sigmoid(o) * torch.tanh(cell)
            outputs.append(hidden)
        return self.norm(torch.stack(outputs, 2))


class RecurrentDenseUNet(nn.Module):
    """Grey patches (batch, 1, depth, height, width) to logits of the same shape, without dropout."""

    def __init__(self, widths: Sequence[int], recurrent_width: int, recurrent_layers: int) -> None:
        super().__init__()
        channels, skips = 1, []
        self.encoder, self.recurrent = nn.ModuleList(), nn.ModuleList()
        self.upsample, self.decoder = nn.ModuleList(), nn.ModuleList()
        for features in widths:
            self.encoder.append(Block(channels, features))
            channels += features
            skips.append(features)
        skips[-1] = channels
        for _ in range(recurrent_layers):
            self.recurrent.append(ConvLSTM(channels, recurrent_width))
            channels = recurrent_width
        for features, skip in zip(reversed(widths), reversed(skips), strict=True):
            self.upsample.append(nn.ConvTranspose2d(channels, features, 2, stride=2))
            self.decoder.append(Block(features + skip, features))
            channels = 2 * features + skip
        self.logits = nn.Conv3d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.encoder, 1):
            output, last = block(x)
            # Only the coarsest level passes its whole output on to the decoder.
            skips.append(output if level == len(self.encoder) else last)
            x = functional.max_pool3d(output, (1, 2, 2))
        for layer in self.recurrent:
            x = layer(x)
        for upsample, block in zip(self.upsample, self.decoder, strict=True):
            x = _unfold(upsample(_fold(x)), len(x))
            x, _ = block(torch.cat([x, skips.pop()], 1))
        return self.logits(x)

    def load_keras(self, weights: Sequence[np.ndarray]) -> None:
        """Copies the weights of the Keras network, in its order."""
        source = iter(weights)
        with torch.no_grad():
            for layer in self._layers():
                if isinstance(layer, nn.BatchNorm3d):
                    for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                        tensor.copy_(torch.from_numpy(next(source)))  # pyright: ignore[reportOptionalMemberAccess]
                    continue
                # The shape of a Keras kernel ends with (in, out), of a transposed convolution with (out, in); in
                # PyTorch both come first, in reverse order. Spatial axes of its 3-D kernels are (height, width, depth),
                # of PyTorch's (depth, height, width).
                axes = (4, 3, 2, 0, 1) if isinstance(layer, nn.Conv3d) else (3, 2, 0, 1)
                kernels = [layer.inputs, layer.recurrent] if isinstance(layer, ConvLSTM) else [layer]
                for one in kernels:
                    one.weight.copy_(torch.from_numpy(next(source).transpose(axes).copy()))
                kernels[0].bias.copy_(torch.from_numpy(next(source)))
        if next(source, None) is not None:
            raise ValueError("the file has more weights than this network")

    def _layers(self) -> Iterator[nn.Module]:
        for block in self.encoder:
            yield from block.children()
        for layer in self.recurrent:
            yield from (layer, layer.norm)  # pyright: ignore[reportReturnType]
        for upsample, block in zip(self.upsample, self.decoder, strict=True):
            yield from (upsample, *block.children())
        yield self.logits


def program(case: Case) -> Program:
    """Prediction or training step, as a contestant, on the GPU if there is one."""
    torch.set_num_threads(case.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = RecurrentDenseUNet(tuple(case.widths), case.recurrent_width, case.recurrent_layers)
    network.load_keras(case.weights())
    for convert, layout in (
        (nn.utils.convert_conv2d_weight_memory_format, torch.channels_last),
        (nn.utils.convert_conv3d_weight_memory_format, torch.channels_last_3d),
    ):
        network = convert(network, layout)
    network = network.to(device)
    images, masks = (
        torch.from_numpy(array.transpose(0, 4, 1, 2, 3).astype(np.float32)).to(
            device, memory_format=torch.channels_last_3d
        )
        for array in case.patches()
    )
    if case.task == "predict":
        network.eval()

        def predict() -> np.ndarray:
            with torch.inference_mode():
                return torch.sigmoid(network(images)).cpu().numpy().transpose(0, 2, 3, 4, 1)

        return predict
    if case.task != "train":
        raise SystemExit("torch predicts and trains patches; it has no evaluation of a whole patient")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, eps=1e-8)

    def step() -> np.ndarray:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(network(images), masks)
        loss.backward()
        optimizer.step()
        return loss.detach().cpu().numpy()

    return step


def _norm(features: int) -> nn.BatchNorm3d:
    """With the values of Keras; PyTorch's momentum is one minus that of Keras."""
    return nn.BatchNorm3d(features, eps=1e-3, momentum=0.01)


def _hard_sigmoid(x: Tensor) -> Tensor:
    return torch.clamp(0.2 * x + 0.5, 0, 1)


def _fold(x: Tensor) -> Tensor:
    """(batch, channels, depth, height, width) to images (batch x depth, channels, height, width)."""
    return x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _unfold(x: Tensor, batch: int) -> Tensor:
    return x.unflatten(0, (batch, -1)).transpose(1, 2)
