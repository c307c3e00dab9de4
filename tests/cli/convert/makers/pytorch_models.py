"""Makes models of PyTorch in a folder. Run with the converter's packages: ``PACKAGES FOLDER``."""

import os
import sys

sys.path.insert(0, sys.argv[1])

import torch
from torch import nn

os.chdir(sys.argv[2])
torch.manual_seed(3)


class Net(nn.Module):
    """A convolution, a recurrent layer in both directions, classes."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.lstm = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.out = nn.Linear(10, 4)

    def forward(self, x):
        """Classes of images."""
        y = torch.relu(self.norm(self.convolution(x))).mean(3).transpose(1, 2)
        y, _ = self.lstm(y)
        return torch.softmax(self.out(y[:, -1]), 1)


net = Net().eval()
x = torch.randn(2, 3, 8, 8)
torch.jit.save(torch.jit.trace(net, x), "traced.pt")
torch.jit.save(torch.jit.script(net), "scripted.pt")
batch = torch.export.Dim("batch", min=1, max=64)
torch.export.save(torch.export.export(net, (x,), dynamic_shapes=({0: batch},)), "net.pt2")
torch.save(net, "pickled.pt")
torch.save(net.state_dict(), "state.pt")
