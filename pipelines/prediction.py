"""What a mixture should reach, stored before it is trained: the page to mix it, the prediction and its digest.

<root>/advice/<name>.yaml               a page for `headwater mix`
<root>/advice/<name>.prediction.json    what it should reach, and from which runs that is known
<root>/advice/<name>.sha256             digest of the prediction, as `sha256sum --check` reads it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import yaml

from filters.errors import InputError
from pipelines.mixture import MixConfig
from pipelines.store.root import Root

_FOLDER, _PREDICTION = "advice", ".prediction.json"


def prediction_path(root: Root, name: str) -> str:
    """Where the prediction of a mixture is, or will be."""
    return root.path(_FOLDER, name + _PREDICTION)


def page_path(root: Root, name: str) -> str:
    """Where its page is."""
    return root.path(_FOLDER, f"{name}.yaml")


def check_new(root: Root, name: str) -> None:
    """InputError where a prediction has that name: it must not change once it is stored."""
    if has_prediction(root, name):
        raise InputError(
            f"{prediction_path(root, name)} is there, and what was predicted stays; choose another --name"
        )


def store_prediction(root: Root, name: str, mix: MixConfig, prediction: Mapping[str, Any]) -> str:
    """Write all three, the prediction last; its digest."""
    data = (json.dumps(prediction, indent=2, sort_keys=True) + "\n").encode()
    digest = hashlib.sha256(data).hexdigest()
    plain = mix.model_dump(exclude_defaults=True, exclude_none=True)
    text = f"# Proposed by `headwater advise`; what it should reach is in {name}{_PREDICTION}, sha256 {digest}.\n"
    root.write_bytes((text + yaml.safe_dump(plain, sort_keys=False)).encode(), _FOLDER, f"{name}.yaml")
    root.write_bytes(f"{digest}  {name}{_PREDICTION}\n".encode(), _FOLDER, f"{name}.sha256")
    root.write_bytes(data, _FOLDER, name + _PREDICTION)
    return digest


def digest_of(root: Root, name: str) -> str:
    """The digest that was stored with a prediction."""
    return root.read_bytes(_FOLDER, f"{name}.sha256").decode().split()[0]


def has_prediction(root: Root, name: str) -> bool:
    """Whether a prediction has that name."""
    return root.exists(_FOLDER, name + _PREDICTION)


def read_prediction(root: Root, name: str) -> Any:
    """A stored prediction; InputError where its bytes are not those whose digest was stored."""
    path = prediction_path(root, name)
    if not has_prediction(root, name):
        there = [file.removesuffix(_PREDICTION) for file in root.names(_FOLDER, suffix=_PREDICTION)]
        raise InputError(f"{path}: no prediction; there is {', '.join(there) or 'none yet'}")
    digest = hashlib.sha256(root.read_bytes(_FOLDER, name + _PREDICTION)).hexdigest()
    if digest_of(root, name) != digest:
        raise InputError(f"{path}: was changed after it was stored: its sha256 is not the one in {name}.sha256")
    return root.read_json(_FOLDER, name + _PREDICTION)
