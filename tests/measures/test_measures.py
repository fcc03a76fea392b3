"""The house stays as it is drawn: imports point down, nothing is hidden, a name means one thing."""

from pathlib import Path

import hidden_inputs
import measures
import public_names
import pytest
import source_code
from measures import ROOT

# From the top to the bottom, as in README, "The house": a room imports only from those below it.
ROOMS = (
    *(
        "fugaku_jax",
        "benchmarks",
        "planning",
        "serving",
        "interop",
        "tuning",
        "training",
        "report",
        "tracing",
        "corpora",
    ),
    "run",
    *("evaluation", "inference", "models", "parallel", "layout", "pipeline", "collectives"),
    *("cluster", "data", "ledger", "kernels", "tofu"),
    *("config", "sections", "json_file", "json_types", "spelling", "huge_pages", "processor"),
    *("compile_cache",),
    *("errors",),
)
# These start programs; what they read of the environment decides no result.
STARTING = {"benchmarks", "cluster", "compile_cache", "huge_pages", "processor"}
# What the other rooms read of it: where files are looked for; and once, as the program begins,
# which kernels it takes, a value that JAX's caches know of.
ENVIRONMENT = [
    "fugaku_jax.kernels.native.<module>",
    "fugaku_jax.layout.mesh._given_rank_map",
]
# What only lm-evaluation-harness calls, and only tests: a step traced without compiling it.
UNUSED = [
    "fugaku_jax.evaluation.harness_model.HarnessModel.eot_token_id",
    "fugaku_jax.evaluation.harness_model.HarnessModel.loglikelihood_rolling",
    "fugaku_jax.evaluation.harness_model.HarnessModel.generate_until",
    "fugaku_jax.layout.layout.OnLayout.trace",
]
# What a stranger reads at most. Figures of a mesh, and of all of the package: `make measures`.
MOST_FILES, MOST_LINES = 31, 3_987
LONGEST_FUNCTION, LONGEST_FILE = 90, 360


@pytest.fixture(scope="module")
def package():
    return source_code.read_modules(ROOT)


def test_imports_between_rooms_point_down_so_that_there_is_no_circle(package):
    imports = source_code.room_imports(package)
    assert {module.room for module in package} <= set(ROOMS)
    upwards = [
        each
        for (room, other), places in imports.items()
        for each in places
        if ROOMS.index(room) > ROOMS.index(other)
    ]
    assert upwards == []


def test_neither_the_package_nor_a_program_imports_tests(package):
    tests = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"tests"}
    own = {path.stem for path in (ROOT / "launch").rglob("*.py")}
    for module in package + source_code.read_modules(ROOT, "launch", "configs"):
        assert not set(source_code.top_level(module)) & (tests - own), module.name
        assert "tests" not in source_code.strings(module), module.name  # loaded by their path


def test_what_decides_a_result_is_an_argument_but_for_what_is_written_here(package):
    assert hidden_inputs.rebound(package) == []
    computing = [module for module in package if module.room not in STARTING]
    assert hidden_inputs.environment_reads(computing) == ENVIRONMENT


def test_a_class_name_is_used_once(package):
    assert source_code.repeated_classes(package) == {}


def test_nothing_public_is_used_by_nobody_but_what_is_written_here(package):
    programs = source_code.read_modules(ROOT, "launch", "configs")
    assert public_names.unused(ROOT, package, programs) == UNUSED


def test_no_function_and_no_file_is_longer_than_the_longest_was(package):
    assert source_code.longest_function(package) < (LONGEST_FUNCTION + 1, "")
    assert source_code.longest_file(package) < (LONGEST_FILE + 1, "")


@pytest.mark.slow
def test_a_step_on_one_device_is_read_without_schedules_and_without_a_torus():
    files = measures.files_of_a_step(ROOT)
    assert "fugaku_jax/training/step.py" in files
    for each in ("pipeline/schedule", "pipeline/slots", "pipeline/check", "layout/search"):
        assert f"fugaku_jax/{each}.py" not in files
    assert not any(name.startswith("fugaku_jax/tofu") for name in files)
    assert len(files) <= MOST_FILES
    assert sum(files.values()) <= MOST_LINES


@pytest.mark.parametrize("room", ["report", "ledger", "tofu"])
def test_a_room_that_computes_nothing_on_devices_knows_no_jax(package, room):
    loaded = [
        each
        for module in package
        if module.room == room
        for each in source_code.reached(package, module.name)
    ]
    assert loaded
    for module in loaded:
        assert not {"jax", "flax", "optax", "orbax"} & set(source_code.top_level(module)), module


def test_what_a_function_changes_outside_of_itself_is_found(tmp_path):
    text = """
import os
from fugaku_jax import processor
from fugaku_jax.kernels.native import DTYPES
_first, _second, _third, fourth = None, {}, [], ()
_second: dict = {}
_third = []

def change(first):
    global _first
    _first = first
    _second["key"] = first
    _third.append(first)
    processor.answer = first
    DTYPES["fp8"] = processor.names["first"]
    mine = {}
    mine["key"] = os.environ["HOME"]
"""
    Path(tmp_path, "fugaku_jax").mkdir()
    Path(tmp_path, "fugaku_jax/changing.py").write_text(text)
    modules = source_code.read_modules(tmp_path)
    names = ("DTYPES", "_first", "_second", "_third", "processor")
    assert hidden_inputs.rebound(modules) == [f"fugaku_jax.changing.{name}" for name in names]
    assert hidden_inputs.environment_reads(modules) == ["fugaku_jax.changing.change"]


def test_a_name_without_a_shape_and_one_that_nobody_uses_are_found(tmp_path):
    text = """
def told(x: Float[Array, "B T"], n: int) -> PyTree[Float[Array, "B T"]] | None: ...
def open_array(x: Array, y: Any) -> Float[Array, "B"]: ...
def open_tree(x: PyTree[Array]) -> dict[str, Any]: ...
def _private(x: Array) -> Any: ...
class Used:
    def method(self) -> Any:
        return self.method(told, open_tree)
print(Used, "open_array")
"""
    Path(tmp_path, "fugaku_jax").mkdir()
    Path(tmp_path, "fugaku_jax/names.py").write_text(text)
    modules = source_code.read_modules(tmp_path)
    assert public_names.without_shapes(modules) == {
        "array": ["fugaku_jax.names.open_array"],
        "anything": ["fugaku_jax.names.open_tree", "fugaku_jax.names.Used.method"],
    }
    assert public_names.annotations(modules) == {"with shapes": 3, "with Any": 4}
    unused = ["fugaku_jax.names.open_array", "fugaku_jax.names.Used.method"]
    assert public_names.unused(tmp_path, modules, []) == unused
