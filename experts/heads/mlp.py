"""The tiny neural head: one hidden layer with dropout, trained for a fixed number of steps.

Nothing is stopped early, so no training row has to be held back to decide when; the number of steps, width and decay are
fixed beforehand (or found on inner folds by a search). With more features than rows the first layer's weights move in the space
that the training rows span (:mod:`~sonokit.experts.heads.span`) and are nothing outside it, where no row could teach them
anything. The only module of this room that imports torch.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ...atomic import write_json
from .span import spanned
from .targets import class_targets

LENGTHS = (0.25, 0.5, 1, 2, 4)
"""After how many times its own length of training a search looks at the inner folds."""


class MLPHead(BaseEstimator):
    """Standardise, hidden layer, output, on the CPU; see :mod:`sonokit.experts.heads.by_name` for the interface.

    Args:
        task: Of class codes or numbers.
        hidden: Units of the hidden layer.
        dropout: Share of them that is silent in a step.
        steps: At least so many, and
        passes: at least so many times over all rows.
        batch_size: Rows a step.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        seed: Of the weights, the order of the rows and the dropout.
    """

    name = "mlp"

    def __init__(
        self,
        task: Literal["classification", "regression"] = "classification",
        hidden: int = 32,
        dropout: float = 0.3,
        steps: int = 200,
        passes: int = 10,
        batch_size: int = 256,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-2,
        seed: int = 0,
    ) -> None:
        self.task = task
        self.hidden = hidden
        self.dropout = dropout
        self.steps = steps
        self.passes = passes
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.seed = seed

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "MLPHead":
        """Fit on X [N, F], y [N] or soft targets [N, K]; ``groups`` are not looked at."""
        for _ in self._training(X, y, [{"steps": self.steps, "passes": self.passes}]):
            pass
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Class codes or values, [N]."""
        if self.task == "classification":
            return self.classes_[self.predict_proba(X).argmax(axis=1)]
        return self._outputs(X)[:, 0].double().numpy() * self.target_scale_ + self.target_mean_

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """[N, len(classes_)]."""
        return self._outputs(X).double().softmax(dim=1).numpy()

    def stages(self) -> tuple[dict[str, Any], ...]:
        """Settings of the same head trained for a shorter or longer time, in their order."""
        return tuple(
            {"steps": max(1, round(length * self.steps)), "passes": max(1, round(length * self.passes))} for length in LENGTHS
        )

    def fit_staged(self, X: np.ndarray, y: np.ndarray, tested: np.ndarray) -> np.ndarray:
        """Fit on X, y as far as the last stage; what each stage says of ``tested`` [M, F], [S, M, classes] or [S, M]."""
        predict = self.predict if self.task == "regression" else self.predict_proba
        said = [predict(tested) for _ in self._training(X, y, list(self.stages()))]
        self.set_params(**self.stages()[-1])
        return np.stack(said)

    def save(self, folder: Path) -> None:
        """Write ``head.json`` and ``mlp.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"network.{name}": value.numpy() for name, value in self.network_.state_dict().items()}
        save_file(tensors | {"mean": self.mean_, "scale": self.scale_}, folder / "mlp.safetensors")
        plain = {"head": self.name, "settings": self.get_params()}
        if self.task == "classification":
            plain["classes"] = self.classes_.tolist()
        else:
            plain["target"] = {"mean": self.target_mean_, "scale": self.target_scale_}
        write_json(folder / "head.json", plain)

    @classmethod
    def load(cls, folder: Path) -> "MLPHead":
        """Read what :meth:`save` wrote."""
        plain = json.loads((folder / "head.json").read_text(encoding="utf-8"))
        head = cls(**plain["settings"])
        tensors = load_file(folder / "mlp.safetensors")
        head.mean_, head.scale_ = tensors.pop("mean"), tensors.pop("scale")
        if head.task == "classification":
            head.classes_ = np.asarray(plain["classes"], dtype=np.int64)
        else:
            head.target_mean_, head.target_scale_ = plain["target"]["mean"], plain["target"]["scale"]
        outputs = len(tensors["network.3.bias"])
        head.network_ = _network(len(head.mean_), head.hidden, outputs, head.dropout)
        head.network_.load_state_dict({name.removeprefix("network."): torch.from_numpy(v) for name, v in tensors.items()})
        return head

    def _training(self, X: np.ndarray, y: np.ndarray, stages: list[dict[str, Any]]) -> Iterator[None]:
        """Train as long as the last of ``stages``, and pause after each with ``network_`` ready to predict."""
        scaler = StandardScaler()
        scaled = scaler.fit_transform(np.asarray(X, dtype=np.float64))
        self.mean_, self.scale_ = scaler.mean_.astype(np.float32), scaler.scale_.astype(np.float32)
        targets = self._targets(np.asarray(y))
        reduced = spanned(scaled)
        inputs = torch.from_numpy((scaled if reduced is None else reduced[0]).astype(np.float32))  # [N, F or D]
        basis = None if reduced is None else torch.from_numpy(reduced[1].astype(np.float32))  # [F, D]
        random = torch.Generator().manual_seed(self.seed)
        whole, network = _started(scaled.shape[1], self.hidden, targets.shape[1], self.dropout, basis, self.seed)
        optimiser = _AdamW(list(network.parameters()), self.learning_rate, self.weight_decay)
        batches = math.ceil(len(inputs) / self.batch_size)
        done = 0
        for stage in stages:
            passes = max(stage["passes"], math.ceil(stage["steps"] / batches))
            with _one_thread():
                for _ in range(done, passes):
                    self._pass(network, optimiser, inputs, targets, random)
            done = max(done, passes)
            self.network_ = _widened(whole, network, basis)
            yield

    def _pass(
        self, network: nn.Sequential, optimiser: "_AdamW", inputs: Tensor, targets: Tensor, random: torch.Generator
    ) -> None:
        """Once over all rows: inputs [N, D], targets [N, K or 1]."""
        first, _, _, last = network
        # one batch of everything needs no order
        order = torch.randperm(len(inputs), generator=random).split(self.batch_size) if len(inputs) > self.batch_size else [...]
        for rows in order:
            hidden = first(inputs[rows]).relu()  # [B, H]
            # dropout by hand: torch's draws from the one stream that the caller also draws from
            kept = torch.rand(hidden.shape, generator=random) >= self.dropout
            outputs = last(hidden * kept / (1 - self.dropout))  # [B, K or 1]
            if self.task == "regression":
                loss = nn.functional.mse_loss(outputs, targets[rows])
            else:
                loss = -(targets[rows] * outputs.log_softmax(dim=1)).sum(dim=1).mean()
            optimiser.step(loss)

    def _targets(self, y: np.ndarray) -> Tensor:
        """[N, 1] standardised, or [N, K]: the share of each class times the weight that lets all classes count alike."""
        if self.task == "regression":
            self.target_mean_, self.target_scale_ = float(y.mean()), float(y.std()) or 1.0
            return torch.from_numpy(((y - self.target_mean_) / self.target_scale_).astype(np.float32))[:, None]
        targets = class_targets(y)
        self.classes_ = targets.classes
        return torch.from_numpy((targets.shares * targets.weights).astype(np.float32))

    @torch.no_grad()
    def _outputs(self, X: np.ndarray) -> Tensor:
        inputs = (np.asarray(X, dtype=np.float32) - self.mean_) / self.scale_
        return self.network_(torch.from_numpy(inputs))


class _AdamW:
    """``torch.optim.AdamW(…, fused=True)`` to the last bit, by the kernel that it calls itself.

    Importing the optimisers' own class pulls torch's compiler in, which takes longer than many a head.
    """

    def __init__(self, parameters: list[Tensor], learning_rate: float, weight_decay: float) -> None:
        self.parameters, self.learning_rate, self.weight_decay = parameters, learning_rate, weight_decay
        self.means, self.squares = ([torch.zeros_like(one) for one in parameters] for _ in range(2))
        self.steps = [torch.zeros(()) for _ in parameters]

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of ``loss``."""
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            for done in self.steps:
                done += 1
            torch._fused_adamw_(
                self.parameters, list(gradients), self.means, self.squares, [], self.steps, lr=self.learning_rate, beta1=0.9,
                beta2=0.999, weight_decay=self.weight_decay, eps=1e-8, amsgrad=False, maximize=False,
            )  # fmt: skip


@contextmanager
def _one_thread() -> Iterator[None]:
    """A step is too small to share: several threads wait for each other far longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _network(features: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))
    return network.eval()


def _started(
    features: int, hidden: int, outputs: int, dropout: float, basis: Tensor | None, seed: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """The network on all features, and the one that is trained: on coordinates in ``basis`` [F, D] it says the same."""
    with torch.random.fork_rng(devices=[]):  # the caller's stream of random numbers stays as it is
        torch.manual_seed(seed)
        whole = _network(features, hidden, outputs, dropout)
        if basis is None:
            return whole, whole
        network = _network(basis.shape[1], hidden, outputs, dropout)
    network.load_state_dict(whole.state_dict() | {"0.weight": whole.state_dict()["0.weight"] @ basis})
    return whole, network


@torch.no_grad()
def _widened(whole: nn.Sequential, network: nn.Sequential, basis: Tensor | None) -> nn.Sequential:
    if basis is not None:
        state = network.state_dict()
        whole.load_state_dict(state | {"0.weight": state["0.weight"] @ basis.T})  # [H, F]
    return whole
