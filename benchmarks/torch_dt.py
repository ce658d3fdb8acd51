"""The peer of the Decision Transformer's benchmark: a training step in PyTorch as the original is structured.

Written anew from the description of Chen et al. 2021 (arXiv 2106.01345): tokens are interleaved R_1, o_1,
a_1, R_2, ..., one embedding per modality plus one of the time step, a norm, GPT-2's blocks (pre-norm, ReLU,
an MLP four times as wide, dropout on embeddings, attention and both residuals) over the whole sequence, heads
that predict actions, observations and returns, the error of the actions alone, AdamW behind a clip. PyTorch
is imported when a step is made.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from memjax.networks.transformer import TransformerSizes


def make_step(sizes: TransformerSizes, action: int, batch: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    """A call that makes one training step on a batch of `Windows` as a dict, on all cores."""
    import os

    torch = importlib.import_module("torch")

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    windows = {name: torch.from_numpy(np.array(x)) for name, x in batch.items()}
    net = _net(sizes, windows["observations"].shape[-1], action)
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=1e-4)

    def step() -> Any:
        _, found, _ = net(windows)
        real = windows["mask"].reshape(-1) > 0
        error = torch.mean(
            (found.reshape(-1, action)[real] - windows["actions"].reshape(-1, action)[real]) ** 2
        )
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.25)
        optimizer.step()
        return error.item()

    return step


def _net(sizes: TransformerSizes, observation: int, action: int) -> Any:
    torch, nn = importlib.import_module("torch"), importlib.import_module("torch.nn")

    width, heads, rate = sizes.width, sizes.heads, sizes.dropout

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.drop_weights, self.drop_out, self.drop_mlp = (nn.Dropout(rate) for _ in range(3))

        def forward(self, x: Any, allowed: Any) -> Any:
            batch, tokens, _ = x.shape
            parts = self.qkv(self.norm_attention(x)).split(width, dim=2)
            q, k, v = (y.view(batch, tokens, heads, -1).transpose(1, 2) for y in parts)
            scores = q @ k.transpose(2, 3) / math.sqrt(width // heads)
            weights = torch.softmax(scores.masked_fill(~allowed, -1e4), dim=-1)
            mixed = (self.drop_weights(weights) @ v).transpose(1, 2).reshape(batch, tokens, width)
            x = x + self.drop_out(self.out(mixed))
            return x + self.drop_mlp(self.narrow(torch.relu(self.wide(self.norm_mlp(x)))))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.time = nn.Embedding(sizes.max_steps, width)
            self.returns, self.observations = nn.Linear(1, width), nn.Linear(observation, width)
            self.actions = nn.Linear(action, width)
            self.norm_in, self.norm_out, self.drop = (
                nn.LayerNorm(width),
                nn.LayerNorm(width),
                nn.Dropout(rate),
            )
            self.blocks = nn.ModuleList(Block() for _ in range(sizes.layers))
            self.to_return, self.to_observation = nn.Linear(width, 1), nn.Linear(width, observation)
            self.to_action = nn.Sequential(nn.Linear(width, action), nn.Tanh())

        def forward(self, windows: Any) -> tuple[Any, Any, Any]:
            batch, context = windows["mask"].shape
            time = self.time(windows["timesteps"])
            kinds = (
                self.returns(windows["returns_to_go"][..., None]) + time,
                self.observations(windows["observations"]) + time,
                self.actions(windows["actions"]) + time,
            )
            x = torch.stack(kinds, dim=2).reshape(batch, 3 * context, width)
            real = windows["mask"].repeat_interleave(3, dim=1)
            causal = torch.ones(3 * context, 3 * context, dtype=torch.bool).tril()
            allowed = causal & real[:, None, None, :]
            x = self.drop(self.norm_in(x))
            for block in self.blocks:
                x = block(x, allowed)
            x = self.norm_out(x).reshape(batch, context, 3, width).permute(0, 2, 1, 3)
            return self.to_return(x[:, 2]), self.to_action(x[:, 1]), self.to_observation(x[:, 2])

    return Net()
