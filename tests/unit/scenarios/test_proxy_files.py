"""Files of proxies."""

from pathlib import Path

import pytest

from scenarios.errors import ScenarioError
from scenarios.proxy_files import read_proxy_file


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", "[{", ["no JSON"]),
        ("a.json", '[{"name": "a"}]', ["missing required field: upstream at proxy 1"]),
        ("a.json", '[{"name": "a", "upstream": "127.0.0.1"}]', ["upstream '127.0.0.1': it must be host:port"]),
        ("a.json", '{"name": "a"}', ["a list of proxies is expected"]),
        ("a.yaml", "", ["the file is empty"]),
        ("a.yaml", "proxies:\n  - {name: a, upstream: 'h:1', colour: red}\n", [".yaml:2: proxies.0.colour"]),
        (
            "a.yaml",
            "proxies:\n"
            "  - name: a\n"
            "    upstream: h:1\n"
            "    toxics:\n"
            "      - {type: rain}\n"
            "      - {type: latency, attributes: {latency: -1}}\n"
            "  - name: a\n"
            "    upstream: nowhere\n",
            [
                ".yaml:5: proxies.0.toxics.0: invalid toxic type",
                ".yaml:6: proxies.0.toxics.1: bad request body: attributes.latency must be a whole number",
                '.yaml:7: proxies.1.name: "a": another proxy has this name',
                ".yaml:7: proxies.1: bad request body: upstream 'nowhere'",
            ],
        ),
    ],
)
def test_a_bad_file_is_told_with_all_its_problems(tmp_path: Path, name: str, text: str, told: list[str]) -> None:
    config = tmp_path / name
    config.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        read_proxy_file(config)
    problems = str(caught.value).splitlines()
    assert len(problems) == len(told)
    for problem, part in zip(problems, told, strict=True):
        assert problem.startswith(str(config))
        assert part in problem
