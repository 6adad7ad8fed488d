import pytest

from fem_core.errors import FemError
from fem_core.store import layout


def test_paths_are_hive_style_and_stay_below_their_run() -> None:
    assert layout.iteration("demo", 3, "attempts") == "runs/demo/iteration=003/attempts"
    assert layout.part_name(7) == "part-00007.parquet"
    assert layout.model("demo") == "runs/demo/model"
    assert layout.problems("demo", "train") == "runs/demo/problems/train"
    assert layout.run_json("demo") == "runs/demo/run.json"


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc", ".hidden", "a\\b", "a\nb", "x" * 101])
def test_a_run_name_that_would_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(FemError, match="cannot be the name of a run"):
        layout.run_dir(name)
