"""Train a next-vector model: InfoNCE, behind a projection head or not, and cosine."""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class Model(nn.Module):
    """Reads the context vectors in order and predicts the next one."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.GRU(width, hidden, batch_first=True)
        self.out = nn.Linear(hidden, width)
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 32))

    def forward(self, contexts: Tensor) -> Tensor:
        """Return unit vectors [B, D] for contexts [B, T, D]."""
        states, _ = self.encoder(contexts * math.sqrt(contexts.shape[-1]))
        predicted: Tensor = functional.normalize(self.out(states[:, -1]), dim=-1)
        return predicted


def loss_of(model: Model, contexts: Tensor, targets: Tensor, args: argparse.Namespace) -> Tensor:
    """Return the weighted sum of InfoNCE and 1 - cosine; the other targets are negatives."""
    predicted, right = model(contexts), targets
    cosine = (predicted * targets).sum(dim=1).mean()
    if args.space == "projected":
        predicted = functional.normalize(model.head(predicted), dim=1)
        right = functional.normalize(model.head(targets).detach(), dim=1)
    scores = predicted @ right.T / args.temperature
    contrast = functional.cross_entropy(scores, torch.arange(len(scores)))
    total: Tensor = args.lambda_con * contrast + args.lambda_ar * (1 - cosine)
    return total


@torch.no_grad()
def save_predictions(path: Path, model: Model, windows: dict[str, np.ndarray]) -> None:
    """Write one vector per window, with the windows' ids."""
    rows = model(torch.from_numpy(windows["contexts"])).numpy()
    np.savez(path, predictions=rows, ids=windows["ids"])


def main() -> None:
    """Train, and go on where an earlier call with the same folder stopped."""
    args = arguments()
    train, dev, test = (dict(np.load(args.windows / f"{s}.npz")) for s in ("train", "dev", "test"))
    contexts, targets = torch.from_numpy(train["contexts"]), torch.from_numpy(train["targets"])
    torch.manual_seed(args.seed)
    model = Model(targets.shape[1], args.hidden)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05)
    first, checkpoint = 1, args.out / "model.pt"
    if checkpoint.exists():
        model_state, optimizer_state, done = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(model_state)
        optimizer.load_state_dict(optimizer_state)
        first = done + 1
    for epoch in range(first, args.epochs + 1):
        optimizer.param_groups[0]["lr"] = args.lr * (1 - (epoch - 1) / args.epochs)
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(epoch))
        losses = []
        for batch in torch.split(order, args.batch_size):
            loss = loss_of(model, contexts[batch], targets[batch], args)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        save_predictions(args.out / f"dev_{epoch:03d}.npz", model, dev)
        with open(args.out / "epochs.jsonl", "a") as lines:  # after the predictions it speaks of
            lines.write(json.dumps({"epoch": epoch, "loss": sum(losses) / len(losses)}) + "\n")
        state = (model.state_dict(), optimizer.state_dict(), epoch)
        torch.save(state, args.out / "model.new")  # after the line: none may be left out
        (args.out / "model.new").replace(checkpoint)
    save_predictions(args.out / "test.npz", model, test)


def arguments() -> argparse.Namespace:
    """Return the flags; the recipe's [trainer] fills them in."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--temperature", type=float, default=0.07)
    parser.add_argument("--lambda-con", type=float, default=0.7)
    parser.add_argument("--lambda-ar", type=float, default=0.3)
    parser.add_argument("--space", choices=("projected", "raw"), default="projected")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
