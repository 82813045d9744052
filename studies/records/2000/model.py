"""7 s5 M 10v s20v s15v s11v G C

1,927 parameters. `Net` takes images (N, 1, 28, 28), uint8 or floats on 0..1, and normalises them itself; `build()`
is the same network for images that are normalised already. Both give logits (N, 10).

    net = load()
    labels = [net.classes[index] for index in net(images).argmax(1)]
"""

import torch
from torch import nn


def build():
    """The network alone: images less `Net.mean`, over `Net.std`, to logits. weights.safetensors is its state dict."""
    return nn.Sequential(
        nn.Conv2d(1, 7, 3, stride=1, padding=1, groups=1, bias=False),
        nn.BatchNorm2d(7),
        nn.ReLU(),
        nn.Conv2d(7, 7, 3, stride=1, padding=1, groups=7, bias=False),
        nn.Conv2d(7, 5, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 10, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 10, 3, stride=1, padding=0, groups=10, bias=False),
        nn.Conv2d(10, 20, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(20),
        nn.ReLU(),
        nn.Conv2d(20, 20, 3, stride=1, padding=0, groups=20, bias=False),
        nn.Conv2d(20, 15, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(15),
        nn.ReLU(),
        nn.Conv2d(15, 15, 3, stride=1, padding=0, groups=15, bias=False),
        nn.Conv2d(15, 11, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(11),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(11, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.Flatten(),
    )


class Net(nn.Module):
    """The network for images as they are: uint8, or floats on 0..1. Mean and deviation are buffers, no parameters."""

    classes = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.13065856751033747]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor([0.30810860115900607]).view(1, -1, 1, 1))
        self.network = build()

    def forward(self, images):
        checked = not torch.compiler.is_compiling()  # a graph has no exceptions
        if checked and images.shape[1:] != (1, 28, 28):
            raise ValueError(f"images are (N, 1, 28, 28), not {tuple(images.shape)}: give a batch of that size")
        if images.dtype == torch.uint8:
            images = images / 255
        elif not images.is_floating_point():
            raise TypeError(f"images are uint8, or floats on 0..1, not {images.dtype}: give 0 to 255 as uint8")
        elif checked and images.numel():
            low, high = (float(end) for end in images.aminmax())
            if not (low > -0.001 and high < 1.001):  # resizing may have rounded
                raise ValueError(f"floats are on 0..1, not {low:g} to {high:g}: divide levels of 0 to 255 by 255")
        return self.network((images.to(self.mean.dtype) - self.mean) / self.std)


def load(path=None):
    """A `Net` in evaluation mode, with weights.safetensors beside this file, or another (pip install safetensors).

    A state dict that `torch.save` wrote goes in as `Net().network.load_state_dict(torch.load(path))`.
    """
    from pathlib import Path

    from safetensors.torch import load_file

    net = Net()
    net.network.load_state_dict(load_file(path or Path(__file__).with_name("weights.safetensors")))
    return net.eval()
