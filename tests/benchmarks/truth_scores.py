"""What the table of truth says: how well each brief training ranks its networks, and finalist strategies replayed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from truth_runs import FIDELITIES, FOLDER, NEAR, Task, load

from nas.architecture import Architecture
from nas.searches import paired_sd

CURVE, TOPS = (1, 2, 3, 5), (1, 4, 8)
LEADERS, LEADER_SEEDS = 10, 5

STRATEGIES = {
    "4 finalists x 3 seeds": (4, 4, 4), "8, 4, 2 halving": (8, 4, 2), "8, 5, 3, 2 of four seeds": (8, 5, 3, 2),
    "4, 2, 2, the default": (4, 2, 2), "5, 3, 2, 2": (5, 3, 2, 2), "5, 3, 2": (5, 3, 2), "4, 2": (4, 2),
    "12, 8, 5, 3": (12, 8, 5, 3), "12 finalists x 1 seed": (12,), "best brief alone": (),
}  # fmt: skip
"""How many candidates each round trains with one more seed."""
FINAL_EPOCHS = 6

SIGNALS = {
    "e1": "1 epoch", "e2": "2 epochs", "e3": "3 epochs", "e5": "5 epochs", "e1 loss": "1 epoch, by its loss",
    "e2 loss": "2 epochs, by their loss", "e3 loss": "3 epochs, by their loss, the default",
    "e5 loss": "5 epochs, by their loss",
    "half3": "3 epochs of half the images", "small3": "3 epochs at 22x22", "num_params": "parameters", "macs": "MACs",
    "first training loss": "training loss of the full run's first epoch",
}  # fmt: skip
"""The signals of `standings` in words; one that is not here is in words already."""


def truth(runs: pd.DataFrame) -> pd.Series[float]:
    """Score of every network's full runs: the least-squares fit of network and seed, at the mean of the seeds.

    It is their mean where all have the same seeds. A seed has validation images of its own, easier or harder for all.
    """
    full = runs[runs["fidelity"] == "full"].dropna(subset=["last"])
    networks, seeds = pd.get_dummies(full["schedule"]), pd.get_dummies(full["seed"])
    solution = np.linalg.lstsq(np.hstack([networks, seeds]).astype(float), full["last"].to_numpy(float))[0]
    level = (seeds.to_numpy(float) @ solution[networks.shape[1] :]).mean() if len(full) else 0.0
    scores = pd.Series(solution[: networks.shape[1]] + level, index=networks.columns, name="last")
    # Far below a hundredth of a point: rounding, which differs from machine to machine, must not break ties.
    return scores.reindex(full["schedule"].unique()).round(6)


def confirm(schedules: Sequence[str], runs: pd.DataFrame) -> list[Task]:
    """More seeds for the leaders by the first two, which later seeds do not change."""
    leaders = truth(runs[runs["seed"] < 2]).sort_values(ascending=False, kind="stable").index[:LEADERS]
    return [Task(schedule, "full", seed) for seed in range(2, LEADER_SEEDS) for schedule in leaders]


def groups(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs of all networks, and of those near the cap; exits where there is nothing to compare yet."""
    found = {"all networks": runs, f"{NEAR[0]} to {NEAR[1]} parameters": runs[runs["num_params"].between(*NEAR)]}
    found = {title: part for title, part in found.items() if len(truth(part)) > 2}
    if not found:
        raise SystemExit(f"networks with a full run: {len(truth(runs))}, and a comparison needs 3; train more")
    return found


def signals(runs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, float]]:
    """By network, a column for all that may tell its rank, the higher the better; and the mean seconds of each."""
    first, seconds = runs[runs["seed"] == 0], runs.groupby("fidelity")["seconds"].mean()
    brief = first[first["fidelity"] != "full"].assign(last=lambda frame: frame["last"].fillna(0))
    full = first[(first["fidelity"] == "full") & first["last"].notna()].set_index("schedule")
    found = brief.pivot(index="schedule", columns="fidelity", values="last").reindex(truth(runs).index)
    losses = brief.assign(loss=brief["losses"].astype(str).str.split().str[-1].astype(float).fillna(np.inf))
    losses = losses.pivot(index="schedule", columns="fidelity", values="loss").reindex(found.index)
    briefs = [name for name in FIDELITIES if name in found]
    found = found[briefs].assign(**{f"{name} loss": -losses[name] for name in briefs})
    costs = {f"{name}{by}": float(seconds[name]) for name in briefs for by in ("", " loss")}
    epoch = float(seconds["full"]) / FIDELITIES["full"].epochs
    curve = full["accuracies"].str.split(expand=True).astype(float)
    for number in CURVE:
        found[f"epoch {number} of 15"], costs[f"epoch {number} of 15"] = curve[number - 1], number * epoch
    found["first training loss"], costs["first training loss"] = -full["train_loss"], epoch
    for name in ("num_params", "macs"):
        found[name] = [getattr(Architecture.parse(str(schedule)), name) for schedule in found.index]
        costs[name] = 0.0
    return found, costs


def standings(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a signal, over the networks that have it and a full run; none where they are fewer than three.

    `low` and `high` are the 95 % interval of Spearman's correlation, `tops` the points that the best of the
    k leading have less than the best of all, for k of `TOPS`.
    """
    full, (found, costs) = truth(runs), signals(runs)
    rows = []
    for name, seconds in costs.items():
        both = pd.DataFrame({"score": found[name], "full": full}).dropna()
        if len(both) < 3:
            continue
        score, mean = both["score"].to_numpy(float), both["full"].to_numpy(float)
        spearman, (low, high) = float(stats.spearmanr(score, mean).statistic), bootstrap(score, mean)
        row = {"name": name, "n": len(both), "seconds": seconds, "spearman": spearman, "low": low, "high": high}
        leading = mean[np.argsort(-score, kind="stable")]
        tops = [float(full.max() - leading[:k].max()) for k in TOPS]
        rows.append(row | {"kendall": float(stats.kendalltau(score, mean).statistic), "tops": tops})
    return rows


def bootstrap(score: Any, mean: Any, times: int = 1000) -> tuple[float, float]:
    """The 95 % interval of Spearman's correlation over resampled networks."""
    drawn = np.random.default_rng(0).integers(len(score), size=(times, len(score)))
    a, b = (stats.rankdata(values[drawn], axis=1) for values in (score, mean))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):  # a sample of one network many times over
        low, high = np.nanpercentile((a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1)), (2.5, 97.5))
    return float(low), float(high)


def reliability(runs: pd.DataFrame) -> tuple[float, float, int]:
    """Spearman's correlation of full seed 0 with full seed 1, that of their mean by Spearman-Brown, and n."""
    full = runs[(runs["fidelity"] == "full") & (runs["seed"] < 2)]
    halves = full.pivot(index="schedule", columns="seed", values="last").reindex(columns=[0, 1]).dropna()
    half = float(stats.spearmanr(halves[0], halves[1]).statistic) if len(halves) > 2 else math.nan
    return half, 2 * half / (1 + half), len(halves)


def seed_sd(runs: pd.DataFrame) -> float:
    """Standard deviation of full scores between seeds, but for what a seed is to all; NaN without a second seed."""
    full = runs[runs["fidelity"] == "full"].dropna(subset=["last"])
    sd, _ = paired_sd(dict(zip(part["seed"], part["last"], strict=True)) for _, part in full.groupby("schedule"))
    return math.nan if sd is None else sd


def replayed(runs: pd.DataFrame, *, fidelity: str, trials: int, times: int) -> tuple[int, list[tuple[Any, ...]]]:
    """Networks drawn, and by strategy: mean regret in points to the best drawn, its standard error, epochs trained.

    A replay draws `trials` networks, with a brief score of any seed. A finalist's score is normal about the full mean
    with the pooled sd of full scores: one of eight epochs may be a little worse. None is dropped for being behind.
    """
    brief = runs[runs["fidelity"] == fidelity].dropna(subset=["last"]).groupby("schedule")["last"].apply(list)
    both = pd.DataFrame({"full": truth(runs), "brief": brief}).dropna()
    full, briefs, sd = both["full"].to_numpy(float), list(both["brief"]), seed_sd(runs)
    if len(both) < 3 or math.isnan(sd):
        raise SystemExit(
            f"networks with {fidelity} and full runs: {len(both)} of 3, sd between seeds: {sd}; train more"
        )
    trials, how, rows = min(trials, len(both)), FIDELITIES[fidelity], []
    for name, rounds in STRATEGIES.items():
        rng, regrets = np.random.default_rng(0), []  # every strategy meets the same draws
        for _ in range(times):
            drawn, chances = rng.permutation(len(both))[:trials], rng.random(trials)
            scores = [briefs[i][int(chance * len(briefs[i]))] for i, chance in zip(drawn, chances, strict=True)]
            live, finals = drawn[np.argsort(scores, kind="stable")[::-1]], rng.normal(full, sd, size=(4, len(full)))
            for turn, keep in enumerate(rounds):
                live = live[:keep]
                live = live[np.argsort(-finals[: turn + 1, live].mean(0), kind="stable")]
            regrets.append(full[drawn].max() - full[live[0]])
        cost = trials * how.epochs * how.fraction + sum(min(keep, trials) for keep in rounds) * FINAL_EPOCHS
        rows.append((name, float(np.mean(regrets)), float(np.std(regrets, ddof=1)) / math.sqrt(times), cost))
    return trials, rows


def markdown() -> str:
    """How well each brief training ranks the committed networks, as a table for studies/benchmarks/README.md."""
    runs = load(FOLDER / "runs.csv")
    whole, near = (({row["name"]: row for row in standings(part)}, part) for part in groups(runs).values())
    lines = [
        f"| signal | seconds | Spearman, the {len(truth(near[1]))} near the cap (95 %) | Kendall | "
        f"best of the 8 leading, short by | Spearman, all {len(truth(whole[1]))} |",
        "|-|-|-|-|-|-|",
    ]
    for name, row in near[0].items():
        lines.append(
            f"| {SIGNALS.get(name, name)} | {row['seconds']:.0f} | "
            f"{row['spearman']:.2f} ({row['low']:.2f} to {row['high']:.2f}) | {row['kendall']:.2f} | "
            f"{row['tops'][-1]:.3f} | {whole[0][name]['spearman']:.2f} |"
        )
    half, both, count = reliability(near[1])
    lines.append(
        f"\nTwo full runs of a network near the cap agree with {half:.2f} (n = {count}), so that the mean of two is "
        f"worth {both:.2f}; the sd between its seeds is {seed_sd(near[1]):.3f} points."
    )
    return "\n".join(lines)


def plot(panels: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Correlation against seconds a run, a panel a group of networks; .png or .svg."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "truth"  # the same file for the same table
    figure = Figure(figsize=(6 * len(panels), 5), layout="constrained")
    frames = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, rows) in zip(frames, panels.items(), strict=True):
        for row in rows:
            brief, point = row["name"] in FIDELITIES, (row["seconds"], row["spearman"])
            loss = row["name"].endswith(" loss") and not row["name"].startswith("first")
            look: dict[str, Any] = {"color": "tab:blue" if brief else "tab:orange" if loss else "tab:gray"}
            axes.plot([row["seconds"]] * 2, [row["low"], row["high"]], linewidth=0.7, **look)
            axes.plot(*point, "o", **look)
            look["ha"] = "left" if brief or not row["seconds"] else "right"
            look["xytext"] = (5 if brief else -5, 4 if brief or loss else -10)
            axes.annotate(row["name"], point, textcoords="offset points", fontsize=8, **look)
        axes.set(title=f"{title}, n = {max(row['n'] for row in rows)}", xlabel="mean seconds a run")
        axes.grid(alpha=0.3)
    figure.supylabel("Spearman's correlation with the full score")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
