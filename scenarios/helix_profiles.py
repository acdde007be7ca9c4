"""Profiles of the Helix artifact's profile directory, with every measured point."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from scenarios.helix_ini import Problems, problem, read_bounded
from scenarios.tree import Tree
from scenarios.yaml_text import read_yaml

LIBRARY = Path(__file__).parent / "library"
MODEL_FOLDERS = {"llama-1-30b": "llama1_30b", "llama-2-70b": "llama2_70b"}
"""Model -> its folder in the artifact's profile directory."""
MAX_TABLE_BYTES = 1 << 20
MAX_LAYERS = 10_000

_LIMITS = ("kv_blocks", "max_prompts_per_batch", "max_decode_sequences")


def model_layers(model: str) -> int:
    """Layers of a model of the library."""
    return int(_number(_key(read_yaml(LIBRARY / "models" / f"{model}.yaml"), "layers")))


def read_profile(folder: Path, model: str, kind: str) -> dict[str, Any]:
    """A profile document of one machine type.

    Args:
        folder: The profile directory: the one with a folder for each model, or the model's own. Batch limits and
            KV blocks come from its ``machines.yaml``; where that is missing or lacks the machine type, from the
            library's profile.
        model: Name of the model, one of :data:`MODEL_FOLDERS`.
        kind: Machine type.

    Raises:
        ScenarioError: A file is missing or malformed.
    """
    problems = Problems()
    of_model = folder / MODEL_FOLDERS[model]
    tables = of_model if of_model.is_dir() or not (folder / kind.lower()).is_dir() else folder
    parts: dict[str, Any] = {}
    for name, file in (("prefill", "prompt"), ("decode", "decode")):
        with problems.gathered():
            parts[f"{name}_ms_per_layer"] = _table(tables / kind.lower() / f"{file}_bs2time.csv")
    with problems.gathered():
        parts |= _limits(folder, model, kind)
    problems.check()
    source = "Helix artifact, Apache-2.0, DOI 10.5281/zenodo.14037926; imported from its profile directory"
    about = {"schema_version": 1, "kind": "profile", "model": model, "machine": kind, "source": source}
    return {**about, "accuracy": "every measured point", **parts}


def _key(tree: Tree, *path: str) -> Tree:
    """A part that a file must have."""
    part = tree.at(path)
    if part is None:
        near = tree.nearest(path).origin
        raise problem(near.file, near.line, ".".join(path), None, "this key is needed", "add it")
    return part


def _number(tree: Tree) -> float:
    value = tree.content
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e15:
        shown = value if not isinstance(value, dict | list) else None
        raise problem(tree.origin.file, tree.origin.line, "", shown, "it must be a number above 0", "correct it")
    return value


def _per_layers(tree: Tree, max_layers: int) -> dict[str, dict[int, int]]:
    """A figure for each number of held layers."""
    parts = tree.content if isinstance(tree.content, dict) else {}
    figures = {
        int(key): _number(part) for key, part in parts.items() if key.isascii() and key.isdigit() and len(key) < 6
    }
    if sorted(figures) != list(range(1, max_layers + 1)) or any(value % 1 for value in figures.values()):
        rule = f"it must give a whole number for each of 1 to {max_layers} layers"
        raise problem(tree.origin.file, tree.origin.line, "", None, rule, "complete the figures")
    return {"table": {key: int(figures[key]) for key in sorted(figures)}}


def _limits(folder: Path, model: str, kind: str) -> dict[str, Any]:
    """Everything of a profile but its tables: from ``machines.yaml`` where that has it, else from the library."""
    path = folder / "machines.yaml"
    tree = read_yaml(path) if path.exists() else None
    if tree is None or tree.at(("machines", model, kind)) is None:
        shipped = LIBRARY / "profiles" / model / f"{kind.lower()}.yaml"
        if not shipped.is_file():
            rule = f"there are no limits for {model} on {kind}, here or in the library"
            raise problem(path, None, f"machines.{model}.{kind}", None, rule, "add them, or correct the machine type")
        plain = read_yaml(shipped).plain()
        assert isinstance(plain, dict), "a shipped profile is a mapping"
        dropped = ("schema_version", "kind", "model", "machine", "source", "accuracy")
        tables = ("prefill_ms_per_layer", "decode_ms_per_layer")
        return {key: value for key, value in plain.items() if key not in (*dropped, *tables)}
    machine = _key(tree, "machines", model, kind)
    max_layers = int(_number(_key(machine, "max_layers")))
    if max_layers > MAX_LAYERS:
        raise problem(
            path, machine.origin.line, f"machines.{model}.{kind}", max_layers, "too many layers", "correct it"
        )
    typical = _key(tree, "typical_layers", model)
    return {
        "single_decode_factor": 2,
        "max_layers": max_layers,
        "kv_block_tokens": _number(_key(tree, "kv_block_tokens")),
        **{key: _per_layers(_key(machine, key), max_layers) for key in _LIMITS},
        "max_prompt_tokens": _number(_key(tree, "max_prompt_tokens")),
        "decode_context_per_sequence": _number(_key(tree, "decode_context_per_sequence")),
        "typical_layers": {mix: _number(_key(typical, mix, kind)) for mix in ("default", "tight")},
        "first_perf": _number(_key(tree, "first_perf", model, kind)),
    }


def _table(path: Path) -> list[list[float]]:
    """Batch sizes and milliseconds, both checked: rising from 0, and at least 0."""
    knots: list[list[float]] = []
    for number, line in enumerate(read_bounded(path, MAX_TABLE_BYTES).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            batch, milliseconds = (float(cell) for cell in line.split(","))
            valid = 0 <= milliseconds < math.inf and batch.is_integer() and batch < 1e9
        except (ValueError, OverflowError):
            valid = False
        if not valid or batch <= (knots[-1][0] if knots else -1) or (not knots and batch != 0):
            rule = "a row must be a whole batch size, rising from 0, and milliseconds, at least 0"
            raise problem(path, number, "", line, rule, "correct the row")
        knots.append([int(batch), milliseconds])
    if len(knots) < 2:
        raise problem(path, None, "", None, "a table needs at least two rows", "add measurements")
    return knots
