"""What a study asks before it starts: no evaluation picture in training, and claims whose edits are seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from filters.errors import ConfigError, InputError
from pipelines import study
from pipelines.store.catalog import connect
from pipelines.store.root import Root
from pipelines.study_claims import register
from pipelines.study_guard import check_sources, guard_text
from pipelines.study_run import load_tasks
from tests.pipelines.chain import picture
from tests.pipelines.pictured import Given, add_shard
from tests.pipelines.studied import CLAIM, SHOWN, add_set, make_root, settings


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return make_root(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def root(whole: Root, tmp_path: Path) -> Root:
    """A copy to do harm to."""
    shutil.copytree(whole.local(), tmp_path / "root")
    return Root(str(tmp_path / "root"))


def refused(root: Root, model: Path) -> str:
    """What a study says that does not start; it leaves nothing behind."""
    with pytest.raises(InputError) as error:
        study.run(settings(root, model))
    assert not root.exists("study")
    return str(error.value)


def test_what_was_found_is_counted(whole: Root, tiny_model: Path) -> None:
    config = settings(whole, tiny_model)
    with connect(whole) as con:
        found = check_sources(con, whole, config, load_tasks(whole, config))
    none = {"exact_bytes": 0, "exact_pixels": 0, "near": 0, "semantic": 0, "left": 0, "pictures": 12}
    assert found == {"val": {**none, "exact_bytes": 1}, "shifted": none}
    assert guard_text(found).startswith(
        "val (12 pictures): 1 exact_bytes kept out, 0 left; shifted (12 pictures): no"
    )


def test_a_picture_that_leaked_into_a_set_since_is_refused(root: Root, tiny_model: Path) -> None:
    shutil.rmtree(root.local("eval", "shifted"))
    add_set(root, "shifted", 3000, leak=SHOWN + 1)
    assert "evaluation pictures are in the training data (1 of shifted)" in refused(root, tiny_model)


def test_a_set_that_nothing_was_compared_with_is_refused(root: Root, tiny_model: Path) -> None:
    add_set(root, "unseen", 3000)
    said = refused(root, tiny_model)
    assert "the sources were never compared with unseen; run `headwater dedupe" in said


def test_pictures_that_came_later_are_refused(root: Root, tiny_model: Path) -> None:
    add_shard(root, "a", 1, [Given("late", picture(7000))])
    assert "1 shards came after the last `headwater dedupe`" in refused(root, tiny_model)


def test_a_later_edit_of_the_claims_is_an_amendment(tmp_path: Path) -> None:
    root, file = Root(str(tmp_path)), tmp_path / "claims.yaml"
    file.write_text(CLAIM)
    first = register(root, "study", file, 0)
    assert (first["runs_done"], first["amendments"]) == (0, [])
    written = root.read_bytes("study", "claims.json")
    assert register(root, "study", file, 9) == first
    assert root.read_bytes("study", "claims.json") == written
    file.write_text(CLAIM.replace("0.9", "0.5") + CLAIM.splitlines()[1].replace("C2", "C3"))
    later = register(root, "study", file, 12)
    assert {key: later[key] for key in first if key != "amendments"} == {
        key: value for key, value in first.items() if key != "amendments"
    }
    [amendment] = later["amendments"]
    assert (amendment["added"], amendment["removed"], amendment["changed"]) == (["C3"], [], ["C2"])
    assert (amendment["runs_done"], amendment["claims"]["C2"]["threshold"]) == (12, 0.5)
    file.write_text(CLAIM)  # to take an edit back is one more
    assert len(register(root, "study", file, 13)["amendments"]) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("claims: []\n", "claims: List should have at least 1 item"),
        (CLAIM + CLAIM.splitlines()[1] + "\n", "C2 stands twice"),
        (CLAIM.replace("threshold: 0.9, ", ""), "C2 needs a threshold, a direction and seeds, or `cannot_test`"),
        ("claims: [\n", "not valid YAML"),
    ],
)
def test_a_file_that_holds_no_claims_is_one_line(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        register(Root(str(tmp_path)), "study", tmp_path / "claims.yaml", 0)
    assert says in str(error.value)
    with pytest.raises(ConfigError, match="a study needs its claims first"):
        register(Root(str(tmp_path)), "study", tmp_path / "none.yaml", 0)
