"""What a study's runs say: the place where the analysis begins, once all runs are done."""

from __future__ import annotations

from typing import Any

from pipelines.store.root import Root


def analyse(root: Root, folder: str = "study") -> dict[str, Any]:
    """Findings for the summary of `headwater study`, from the files that `pipelines.study_folder` lists; none yet.

    `folder` is the study's, under the root: its `runs.jsonl` has the results, `runs/<id>/images.parquet` the pictures
    behind them, `runs/<id>/logits/` what ensembles are made of, `concepts.json` the halves of the concepts.
    """
    return {}
