"""A study as a table: for pandas, for `nas show`, for reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.study.paths import latest_study
from nas.study.store import StudyStore
from nas.values import checked

if TYPE_CHECKING:
    import pandas as pd

ATTRIBUTES = ("schedule", "num_params", "macs", "loss", "seconds", "seed", "published", "reason")


@checked
def load_study(name: str | None = None, storage: str | None = None) -> pd.DataFrame:
    """Return the trials of a study (default: the latest), one row each, as a pandas DataFrame.

    Columns: `number`, `state`, `value` (validation accuracy in percent of the last epoch), `schedule`, `num_params`,
    `macs`, `loss` (on the validation split, of the last epoch: what ranks trials), `epochs` (trained), `seconds`,
    `seed`, `published` (the name of a published design), `reason` (of a failure), and the parameters as `params_...`.
    A study of another origin has what its trials have. Raise `StorageError` where there is no such study.
    """
    return frame(StudyStore.open(name or latest_study(), storage))


def frame(store: StudyStore) -> pd.DataFrame:
    """Return `load_study` of an open study."""
    import pandas as pd

    trials = store.refresh().trials() if store.is_ours else store.read_trials()
    rows = []
    for trial in trials:
        single = trial.values is not None and len(trial.values) == 1
        row: dict[str, Any] = {
            "number": trial.number, "state": trial.state.name, "value": trial.value if single else None
        }  # fmt: skip
        row |= {column: trial.user_attrs.get(column) for column in ATTRIBUTES}
        row["epochs"] = len(trial.intermediate_values)
        rows.append(row | {f"params_{key}": value for key, value in sorted(trial.params.items())})
    head = ["number", "state", "value", *ATTRIBUTES[:4], "epochs", *ATTRIBUTES[4:]]
    table = pd.DataFrame(rows, columns=head if not rows else None)
    table = table[[*head, *(column for column in table.columns if column not in head)]]
    kinds = {"num_params": "Int64", "macs": "Int64", "seed": "Int64", "value": "float64", "loss": "float64"}
    return table.astype(kinds) if store.is_ours else table
