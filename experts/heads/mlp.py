"""The tiny neural head: one hidden layer with dropout, trained for a fixed number of steps.

Nothing is stopped early, so no training row has to be held back to decide when; the number of steps, width and decay are
fixed beforehand. The only module of this room that imports torch.
"""

import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ...atomic import write_json


class MLPHead(BaseEstimator):
    """Standardise, hidden layer, output, on the CPU; see :mod:`sonokit.experts.heads` for the interface.

    For classes ``y`` may also be soft targets, float [N, K], the probabilities that another model gives.
    """

    name = "mlp"

    def __init__(
        self,
        task: Literal["classification", "regression"] = "classification",
        hidden: int = 32,
        dropout: float = 0.3,
        steps: int = 200,
        batch_size: int = 256,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-2,
        seed: int = 0,
    ) -> None:
        self.task = task
        self.hidden = hidden
        self.dropout = dropout
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.seed = seed

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "MLPHead":
        """Fit on X [N, F], y [N] or [N, K]; ``groups`` are not looked at. At least ``steps`` steps and ten passes."""
        scaler = StandardScaler().fit(np.asarray(X, dtype=np.float64))
        self.mean_, self.scale_ = scaler.mean_.astype(np.float32), scaler.scale_.astype(np.float32)
        targets, weights = self._targets(np.asarray(y))
        inputs = self._inputs(X)
        with torch.random.fork_rng(devices=[]):  # the caller's stream of random numbers stays as it is
            torch.manual_seed(self.seed)
            self.network_ = _network(X.shape[1], self.hidden, targets.shape[1], self.dropout)
            self._train(inputs, targets, weights)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Class codes or values, [N]."""
        if self.task == "classification":
            return self.classes_[self.predict_proba(X).argmax(axis=1)]
        return self._outputs(X)[:, 0].double().numpy() * self.target_scale_ + self.target_mean_

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """[N, len(classes_)]."""
        return self._outputs(X).double().softmax(dim=1).numpy()

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

    def _targets(self, y: np.ndarray) -> tuple[Tensor, Tensor]:
        """Targets float [N, K or 1] and the weight of each row float [N], which lets all classes count alike."""
        if self.task == "regression":
            self.target_mean_, self.target_scale_ = float(y.mean()), float(y.std()) or 1.0
            values = (y - self.target_mean_) / self.target_scale_
            return torch.from_numpy(values.astype(np.float32))[:, None], torch.ones(len(y))
        if y.ndim == 2:
            self.classes_ = np.arange(y.shape[1])
            return torch.from_numpy(y.astype(np.float32)), torch.ones(len(y))
        self.classes_, codes = np.unique(y, return_inverse=True)
        one_hot = np.eye(len(self.classes_), dtype=np.float32)[codes]  # [N, K]
        weights = len(y) / (len(self.classes_) * one_hot.sum(axis=0))
        return torch.from_numpy(one_hot), torch.from_numpy(weights[codes])

    def _train(self, inputs: Tensor, targets: Tensor, weights: Tensor) -> None:
        size = min(self.batch_size, len(inputs))
        batches = math.ceil(len(inputs) / size)
        optimiser = torch.optim.AdamW(
            self.network_.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        self.network_.train()
        for _ in range(max(10, math.ceil(self.steps / batches))):
            for rows in torch.randperm(len(inputs)).split(size):
                outputs = self.network_(inputs[rows])
                if self.task == "regression":
                    losses = (outputs - targets[rows])[:, 0] ** 2
                else:
                    losses = nn.functional.cross_entropy(outputs, targets[rows], reduction="none")
                optimiser.zero_grad()
                (losses * weights[rows]).mean().backward()
                optimiser.step()
        self.network_.eval()

    def _inputs(self, X: np.ndarray) -> Tensor:
        return torch.from_numpy((np.asarray(X, dtype=np.float32) - self.mean_) / self.scale_)

    @torch.no_grad()
    def _outputs(self, X: np.ndarray) -> Tensor:
        return self.network_.eval()(self._inputs(X))


def _network(features: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))
